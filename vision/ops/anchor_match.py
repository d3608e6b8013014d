"""Matchers of anchors that go beyond a fixed overlap: SSD's and ATSS."""

from __future__ import annotations

import torch
from torch import Tensor

from vision.ops.assign import BACKGROUND, Assignment, ignore_crowds, points_inside
from vision.ops.boxes import pairwise_iou
from vision.ops.match import overlap_assignment
from vision.structures import Targets

__all__ = ["adaptive_assignment", "default_box_assignment"]


@torch.no_grad()
def default_box_assignment(anchors: Tensor, targets: Targets, *, threshold: float = 0.5) -> Assignment:
    """SSD's matching (arXiv:1512.02325, section 2.2): objects take their best anchor, anchors the rest by overlap.

    anchors (P, 4). An anchor takes the object that it overlaps most, if by `threshold` or more; then each object
    takes its best anchor, whatever that one had (of objects with the same best anchor the last one wins).
    """
    index = overlap_assignment(anchors, targets, low=threshold, high=threshold).index
    wanted = targets.single
    best = pairwise_iou(targets.boxes, anchors).argmax(-1)  # (B, G)
    rows = torch.arange(best.shape[1], device=best.device).expand_as(best)
    forced = torch.full_like(index, BACKGROUND)
    forced.scatter_reduce_(1, best, torch.where(wanted, rows, BACKGROUND), "amax")
    index = torch.where(forced >= 0, forced, index)
    return Assignment(index, (index >= 0).float())


@torch.no_grad()
def adaptive_assignment(
    anchors: Tensor, strides: Tensor, targets: Targets, *, levels: int = 5, nearest: int = 9, places: int = 1
) -> Assignment:
    """Adaptive training sample selection (ATSS, arXiv:1912.02424, algorithm 1).

    anchors (P, 4) of all `levels`, `places` anchors a place, and strides (P,), by which the levels are told apart. An
    object's candidates are, on each level, the `nearest` * `places` anchors closest to its centre; those whose IoU
    reaches the mean plus the standard deviation over the candidates, and whose centre lies inside the object, are its
    own. Of several objects an anchor takes the one that it overlaps most.
    """
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    iou = pairwise_iou(targets.boxes, anchors)  # (B, G, P)
    candidate = _closest(centres, strides, targets, levels, nearest * places)
    number = candidate.sum(-1, keepdim=True).clamp(min=2)
    mean = (iou * candidate).sum(-1, keepdim=True) / number
    deviation = ((iou - mean).square() * candidate).sum(-1, keepdim=True).div(number - 1).sqrt()
    inside = points_inside(centres, targets.boxes)
    wanted = targets.single.unsqueeze(-1)
    own = candidate & inside & wanted & (iou >= mean + deviation)
    overlap, row = iou.masked_fill(~own, -1.0).max(1)
    index = torch.where(overlap >= 0, row, BACKGROUND)
    return Assignment(ignore_crowds(index, inside, targets), (index >= 0).float())


def _closest(centres: Tensor, strides: Tensor, targets: Targets, levels: int, count: int) -> Tensor:
    """Which anchors are, on their level, among the `count` closest to each object's centre -> (B, G, P) bool."""
    middle = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    distance = (middle.unsqueeze(2) - centres).square().sum(-1)  # (B, G, P)
    # the level of each anchor from where the stride changes: sizes of levels as numbers would need a host sync
    level = torch.cat([strides.new_zeros(1), (strides.diff() != 0).to(strides.dtype)]).cumsum(0)
    candidate = torch.zeros_like(distance, dtype=torch.bool)
    for i in range(levels):
        near = distance.masked_fill(level != i, torch.inf)
        closest, place = near.topk(min(count, near.shape[-1]), dim=-1, largest=False)
        candidate |= torch.zeros_like(candidate).scatter_(-1, place, closest.isfinite())
    return candidate
