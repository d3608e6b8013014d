"""Mirroring and turning of a sample with everything that is known of it."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from vision.data.placement import Visibility, box_areas, ignore_of, refit
from vision.structures import Sample, Target

__all__ = ["flip", "quarter_turns", "rotate"]


def flip(sample: Sample, horizontal: bool, vertical: bool = False) -> Sample:
    """`sample` mirrored left-right and / or top-bottom."""
    if not horizontal and not vertical:
        return sample
    image = cv2.flip(sample.image, -1 if horizontal and vertical else int(horizontal))
    target, (height, width) = sample.target, sample.image.shape[:2]
    x0, y0, x1, y1 = target.boxes.T
    if horizontal:
        x0, x1 = width - x1, width - x0
    if vertical:
        y0, y1 = height - y1, height - y0
    step = (slice(None, None, -1 if vertical else 1), slice(None, None, -1 if horizontal else 1))
    return Sample(image, _with_maps(target, np.stack([x0, y0, x1, y1], 1), lambda maps: maps[(..., *step)]))


def quarter_turns(sample: Sample, turns: int) -> Sample:
    """`sample` turned by `turns` times 90 degrees anticlockwise (as np.rot90)."""
    turns %= 4
    if turns == 0:
        return sample
    if turns == 2:
        return flip(sample, True, True)
    code = cv2.ROTATE_90_COUNTERCLOCKWISE if turns == 1 else cv2.ROTATE_90_CLOCKWISE
    target, (height, width) = sample.target, sample.image.shape[:2]
    x0, y0, x1, y1 = target.boxes.T
    boxes = (y0, width - x1, y1, width - x0) if turns == 1 else (height - y1, x0, height - y0, x1)
    turned = _with_maps(target, np.stack(boxes, 1), lambda maps: np.rot90(maps, turns, axes=(-2, -1)))
    return Sample(cv2.rotate(sample.image, code), dataclasses.replace(turned, size=(width, height)))


def rotate(sample: Sample, degrees: float, pad: int, rule: Visibility) -> Sample:
    """`sample` turned anticlockwise about its centre, at the same size; what comes from outside is `pad`, unlabelled.

    Objects with a mask get the tight box of the turned mask. Of the others nothing but the box is known: theirs is the
    box around the turned ellipse that fills it, which neither grows with the angle as the turned rectangle's would nor
    misses much of most objects. Objects that `rule` does not keep are dropped.
    """
    height, width = sample.image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees, 1.0)
    image = cv2.warpAffine(sample.image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=(pad,) * 3)
    target = sample.target
    whole = _turned_ellipses(target.boxes.astype(np.float64), degrees, (height, width))
    clipped = whole.clip(0, [width, height, width, height])
    masks = semantic = None
    if target.semantic is not None:
        semantic = _warp_labels(target.semantic, matrix)
    seen = box_areas(clipped) / np.maximum(box_areas(whole), 1e-12)
    keep = np.flatnonzero(rule.keeps(clipped, seen, target.crowd))
    target, seen = target.select(keep), seen[keep]
    if target.masks is not None:
        turned = [cv2.warpAffine(mask.astype(np.uint8) * 255, matrix, (width, height)) > 127 for mask in target.masks]
        masks = np.stack(turned) if turned else target.masks
    turned_target = dataclasses.replace(
        target, boxes=clipped[keep], area=target.area * seen, masks=masks, semantic=semantic
    )
    if masks is not None:
        turned_target = refit(turned_target, np.ones(len(turned_target), bool), rule)
    return Sample(image, turned_target)


def _turned_ellipses(boxes: np.ndarray, degrees: float, size: tuple[int, int]) -> np.ndarray:
    """The boxes (N, 4) around the ellipses inscribed in `boxes`, turned about the centre of an image of `size`."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    middle = np.array([size[1] / 2, size[0] / 2])
    centres, halves = (boxes[:, :2] + boxes[:, 2:]) / 2 - middle, (boxes[:, 2:] - boxes[:, :2]) / 2
    # y grows downwards: anticlockwise on the screen is x' = x cos + y sin, y' = y cos - x sin
    turned = middle + centres @ np.array([[cosine, -sine], [sine, cosine]])
    halves = np.sqrt(halves**2 * cosine**2 + halves[:, ::-1] ** 2 * sine**2)
    return np.concatenate([turned - halves, turned + halves], 1)


def _warp_labels(semantic: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    ignore = ignore_of(semantic)
    # OpenCV warps no int32; labels below 2 ** 24 are exact in float32
    source = semantic if semantic.dtype == np.uint8 else semantic.astype(np.float32)
    warped = cv2.warpAffine(source, matrix, semantic.shape[::-1], flags=cv2.INTER_NEAREST, borderValue=ignore)
    return warped.astype(semantic.dtype, copy=False)


def _with_maps(target: Target, boxes: np.ndarray, turn) -> Target:
    masks = None if target.masks is None else np.ascontiguousarray(turn(target.masks))
    semantic = None if target.semantic is None else np.ascontiguousarray(turn(target.semantic))
    return dataclasses.replace(target, boxes=boxes, masks=masks, semantic=semantic)
