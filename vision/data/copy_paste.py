"""Objects of one image pasted into another along their masks (Simple Copy-Paste, arXiv:2012.07177)."""

from __future__ import annotations

import dataclasses

import numpy as np

from vision.data.placement import Visibility, mask_boxes, merge_targets
from vision.structures import Sample, Target

__all__ = ["copy_paste"]


def copy_paste(
    base: Sample, other: Sample, random: np.random.Generator, *, rule: Visibility, share: float = 0.5
) -> Sample:
    """`base` with each object of `other` pasted over it with probability `share`, hard edges (no blending: table 1).

    Both have one size and masks. What is pasted over loses those mask pixels: boxes and areas are those of the rest,
    and an object of which less than `rule.fraction` is left is dropped (a crowd only when nothing is left). Crowds are
    never pasted. The semantic map, where both have one, follows the pasted pixels.
    """
    if base.image.shape != other.image.shape:
        raise ValueError(f"copy_paste: images of {base.image.shape} and {other.image.shape}; expected one size")
    if base.target.masks is None or other.target.masks is None:
        raise ValueError("copy_paste: objects without masks; read the data with masks=True")
    chosen = np.flatnonzero((random.random(len(other.target)) < share) & ~other.target.crowd)
    if not len(chosen):
        return base
    pasted = other.target.select(chosen)
    cover = pasted.masks.any(0)
    image = np.where(cover[..., None], other.image, base.image)
    target = _occlude(base.target, cover, rule)
    semantic = None
    if base.target.semantic is not None and other.target.semantic is not None:
        semantic = np.where(cover, other.target.semantic, base.target.semantic)
    whole = (0, 0, base.image.shape[1], base.image.shape[0])
    merged = merge_targets([target, dataclasses.replace(pasted, semantic=None)], [whole, whole])
    return Sample(image, dataclasses.replace(merged, semantic=semantic))


def _occlude(target: Target, cover: np.ndarray, rule: Visibility) -> Target:
    """`target` whose masks lose the pixels of `cover` (H, W) bool."""
    before = target.masks.sum((1, 2))
    masks = target.masks & ~cover
    left = masks.sum((1, 2))
    changed = left < before
    boxes = np.where(changed[:, None], mask_boxes(masks), target.boxes)
    area = np.where(changed, left, target.area)
    keep = ~changed | (left > np.where(target.crowd, 0, rule.fraction * before))
    return dataclasses.replace(target, masks=masks, boxes=boxes, area=area).select(np.flatnonzero(keep))
