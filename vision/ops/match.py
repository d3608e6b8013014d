"""Matching by overlap: which object each anchor or proposal stands for (arXiv:1506.01497, section 3.1.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from vision.ops.assign import BACKGROUND, IGNORE, Assignment
from vision.ops.boxes import box_area, pairwise_intersection
from vision.structures import Targets

__all__ = ["overlap_assignment"]

_CROWD_SHARE = 0.5  # an unmatched box with more than this share of its area in a crowd is neither here nor there


def _shared_areas(boxes: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and intersection of boxes (B, G, 4) with references (B or 1, P, 4) -> two of (B, G, P)."""
    intersection = pairwise_intersection(boxes, references)
    union = box_area(boxes).unsqueeze(-1) + box_area(references).unsqueeze(-2) - intersection
    return intersection / union.clamp(min=1e-9), intersection


@torch.no_grad()
def overlap_assignment(
    references: Tensor,
    targets: Targets,
    *,
    low: float,
    high: float,
    best_for_each: bool = False,
    valid: Tensor | None = None,
) -> Assignment:
    """Each reference takes the object that it overlaps most, if by at least `high`; below `low` it is background.

    references (P, 4) or (B, P, 4) xyxy; valid (B, P) bool, None: all. Between `low` and `high` it is ignored.
    `best_for_each`: the references that overlap an object most, among all, take the object that *they* overlap most,
    however little (RPN and RetinaNet, as torchvision; but an overlap of 0 matches nothing). Background that lies more
    than half in a crowd is ignored; so is what is not valid. Padding and crowds match nothing. The weight is 1 for
    positives.
    """
    if references.ndim == 2:
        references = references.unsqueeze(0)  # (1, P, 4) serves every image
    wanted = targets.single.unsqueeze(-1)  # (B, G, 1)
    iou, shared = _shared_areas(targets.boxes, references)
    iou = iou.masked_fill_(~wanted, -1.0)
    overlap, row = iou.max(1)  # (B, P)
    index = torch.where(overlap >= high, row, IGNORE).masked_fill_(overlap < low, BACKGROUND)
    if best_for_each:
        best = iou if valid is None else iou.masked_fill(~valid.unsqueeze(1), -1.0)
        best = best.amax(2, keepdim=True)  # (B, G, 1)
        index = torch.where(((iou == best) & (best > 0)).any(1), row, index)
    crowd = targets.crowds.unsqueeze(-1)
    share = shared / box_area(references).clamp(min=1e-9).unsqueeze(-2)
    covered = ((share > _CROWD_SHARE) & crowd).any(1)
    index = index.masked_fill((index == BACKGROUND) & covered, IGNORE)
    if valid is not None:
        index = index.masked_fill(~valid, IGNORE)
    return Assignment(index, (index >= 0).float())
