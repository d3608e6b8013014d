"""Matchers: which object, if any, each place (anchor or point) of a dense detector answers for.

Every matcher works on a whole padded batch of `Targets` without a host sync, gives nothing to padding, and sets the
places that crowds cover (`Targets.crowd`: crowds and difficult objects) to "ignore" where no other object claims them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vision.ops.boxes import box_area, pairwise_iou
from vision.ops.points import encode_distances
from vision.structures import Targets

__all__ = [
    "BACKGROUND",
    "IGNORE",
    "Assignment",
    "centre_assignment",
    "gather_objects",
    "ignore_crowds",
    "points_inside",
    "task_aligned_assignment",
]

BACKGROUND, IGNORE = -1, -2


class Assignment(NamedTuple):
    """index (B, P) int64: the row of `Targets`, -1 for background, -2 for neither · weight (B, P) float32 in [0, 1]:
    how much of a positive the place is; 0 where index is negative."""

    index: Tensor
    weight: Tensor


def gather_objects(values: Tensor, index: Tensor) -> Tensor:
    """Rows of `values` (B, G, ...) that `index` (B, N) names -> (B, N, ...); negative indices read row 0."""
    index = index.clamp(min=0)
    if values.ndim == 2:
        return values.gather(1, index)
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


@torch.no_grad()
def task_aligned_assignment(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    targets: Targets,
    *,
    topk: int = 10,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> Assignment:
    """Task-aligned assignment (TOOD, arXiv:2108.07755, section 3.2).

    scores (B, P, C) in [0, 1] and boxes (B, P, 4) are the predictions, points (P, 2) their places. Each object takes
    the `topk` points inside it with the highest score**alpha * IoU**beta; a point that several objects take goes to
    the one it overlaps most. The weight is that alignment, scaled so that its largest value over an object's points
    equals the largest IoU among them.
    """
    wanted = targets.single  # (B, G)
    inside = points_inside(points, targets.boxes)  # (B, G, P)
    alignment = _alignment(scores, boxes, targets, alpha, beta)
    # -1 marks the points that an object cannot take, apart from those inside it with an alignment of 0
    alignment = alignment.masked_fill_(~(inside & wanted.unsqueeze(-1)), -1.0)
    metric, point = alignment.topk(min(topk, points.shape[0]), dim=-1)  # (B, G, k)
    taken = metric >= 0
    chosen = boxes.gather(1, point.flatten(1).unsqueeze(-1).expand(-1, -1, 4)).unflatten(1, point.shape[1:])
    iou = pairwise_iou(targets.boxes.unsqueeze(-2), chosen).squeeze(-2) * taken  # (B, G, k)
    index, won = _settle(iou, point, taken, points.shape[0])
    metric, iou = metric * won, iou * won
    metric = metric / (metric.amax(-1, keepdim=True) + 1e-9) * iou.amax(-1, keepdim=True)
    weight = metric.new_zeros(index.shape).scatter_reduce_(1, point.flatten(1), metric.flatten(1), "amax")
    return Assignment(ignore_crowds(index, inside, targets), weight)


def _alignment(scores: Tensor, boxes: Tensor, targets: Targets, alpha: float, beta: float) -> Tensor:
    """score**alpha * IoU**beta of every object with every point -> (B, G, P)."""
    labels = targets.labels.clamp(min=0).unsqueeze(-1).expand(-1, -1, scores.shape[1])
    score = scores.transpose(1, 2).gather(1, labels)  # (B, G, P)
    iou = pairwise_iou(targets.boxes, boxes)
    return (score if alpha == 1 else score.pow(alpha)) * iou.pow(beta)


def _settle(iou: Tensor, point: Tensor, taken: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Gives each point to the object with the greatest IoU among those (B, G, k) that took it (the last one of equals).

    -> index (B, count) with -1 where nobody took the point, and won (B, G, k): whose claims stand.
    """
    place = point.flatten(1)
    best = iou.new_full((iou.shape[0], count), -1.0)
    best.scatter_reduce_(1, place, torch.where(taken, iou, -1.0).flatten(1), "amax")
    rows = torch.arange(iou.shape[1], device=iou.device)[:, None].expand(point.shape[1:])
    leads = taken & (iou >= best.gather(1, place).view_as(iou))
    index = place.new_full(best.shape, BACKGROUND)
    index.scatter_reduce_(1, place, torch.where(leads, rows, BACKGROUND).flatten(1), "amax")
    return index, leads & (index.gather(1, place).view_as(point) == rows)


def points_inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether each point (P, 2) lies strictly inside each box (B, G, 4) -> (B, G, P) bool."""
    x, y = points.unbind(-1)
    left, top, right, bottom = boxes.unsqueeze(-1).unbind(-2)  # each (B, G, 1)
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def ignore_crowds(index: Tensor, covered: Tensor, targets: Targets) -> Tensor:
    """`index` (B, P) with -2 at the background places that a crowd covers; covered (B, G, P) bool."""
    crowd = targets.crowds.unsqueeze(-1)
    return index.masked_fill((index == BACKGROUND) & (covered & crowd).any(1), IGNORE)


@torch.no_grad()
def centre_assignment(
    points: Tensor, strides: Tensor, targets: Targets, *, radius: float = 1.5, smallest: float = 4.0
) -> Assignment:
    """FCOS's rule with centre sampling (arXiv:1904.01355, section 3.2): the smallest object whose centre is near.

    points (P, 2) in pixels and strides (P,). A point can take an object that it lies in, whose centre is less than
    `radius` strides away in x and in y, and whose farthest side is more than `smallest` and less than 2 * `smallest`
    strides away; the finest level takes all smaller and the coarsest all larger ones. Weights are 1.
    """
    sides = encode_distances(points, targets.boxes.unsqueeze(2))  # (B, G, P, 4)
    inside = sides.amin(-1) > 0  # (B, G, P)
    centres = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    near = (centres.unsqueeze(2) - points).abs().amax(-1) < radius * strides
    lower = torch.where(strides == strides.amin(), 0, smallest * strides)
    upper = torch.where(strides == strides.amax(), torch.inf, 2 * smallest * strides)
    farthest = sides.amax(-1)
    wanted = targets.single.unsqueeze(-1)
    possible = inside & near & (farthest > lower) & (farthest < upper) & wanted
    area = torch.where(possible, box_area(targets.boxes).unsqueeze(-1), torch.inf)
    smallest_area, row = area.min(1)  # (B, P)
    index = torch.where(smallest_area.isfinite(), row, BACKGROUND)
    return Assignment(ignore_crowds(index, inside, targets), (index >= 0).float())
