"""Instances and a semantic map of one image put together: one class and at most one instance for every pixel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vision.structures import Detections, ignore_label

__all__ = ["PanopticPixels", "merge_panoptic"]


class PanopticPixels(NamedTuple):
    """labels (H, W) int64, void as `ignore_label` · instances (H, W) int64: 0 for stuff and void, things count from 1
    by score."""

    labels: Tensor
    instances: Tensor


def merge_panoptic(
    detections: Detections,
    semantic: Tensor,
    things: Tensor,
    *,
    score_threshold: float = 0.5,
    hidden_share: float = 0.5,
    smallest_stuff: int = 4096,
) -> PanopticPixels:
    """The rules of Panoptic FPN (arXiv:1801.00868, section 5, and 1901.02446).

    Instances of things that score more than `score_threshold` are laid down by falling score; one that is hidden by
    better ones by more than `hidden_share` of its mask is dropped. What is left takes its class of `semantic` (H, W)
    int64 (labels of no class are left void) where that is stuff (`things` (C,) bool is False), unless that class has
    fewer than `smallest_stuff` pixels left in the image. `detections` need masks. Loops over instances, at the ragged
    edge.
    """
    if detections.masks is None:
        raise ValueError("merge_panoptic: detections without masks; decode them with a mask head")
    labels = torch.full_like(semantic, ignore_label(len(things)))
    instances = torch.zeros_like(semantic)
    count = 0
    wanted = things[detections.labels] & (detections.scores > score_threshold)
    for mask, label in zip(detections.masks[wanted], detections.labels[wanted].tolist()):
        area = int(mask.sum())
        free = mask & (instances == 0)
        if area == 0 or int(free.sum()) < (1 - hidden_share) * area:
            continue
        count += 1
        instances[free], labels[free] = count, label
    known = (semantic >= 0) & (semantic < len(things))
    semantic = semantic.where(known, 0)
    stuff = (instances == 0) & known & ~things[semantic]
    sizes = torch.bincount(semantic[stuff], minlength=len(things))
    stuff &= (sizes >= smallest_stuff)[semantic]
    labels[stuff] = semantic[stuff]
    return PanopticPixels(labels, instances)
