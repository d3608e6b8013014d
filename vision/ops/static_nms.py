"""Non-maximum suppression with results of a fixed shape: which boxes stay, as a mask over all of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from vision.ops.boxes import box_area, pairwise_intersection
from vision.ops.tracing import is_exporting

__all__ = ["keep_mask", "static_detections"]

_ROUNDS = 32


def keep_mask(boxes: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """Whether greedy NMS keeps each box: boxes (N, K, 4) by falling score in each of N groups -> (N, K) bool.

    Groups (image and level, say) do not see one another; boxes that are not `valid` (N, K) neither stay nor suppress.
    On a CPU this is torchvision's NMS as one opaque operator, so that it compiles. On other devices and in an export
    it is Cluster-NMS (arXiv:2005.03572) without a host sync: keep = not suppressed by a kept box, repeated 32 times.
    That equals greedy NMS unless a chain of more than 32 boxes suppress one another in turn.
    """
    if boxes.device.type == "cpu" and not is_exporting():
        return _greedy_keep_mask(boxes.detach(), valid, iou_threshold)
    return _cluster_keep_mask(boxes.detach(), valid, iou_threshold)


def static_detections(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    candidates: int = 1000,
) -> tuple[Tensor, Tensor, Tensor]:
    """`ops.nms.suppress` with results of a fixed shape, for exports: of boxes (B, K, 4), scores and labels (B, K) the
    best N = `max_detections`: boxes (B, N, 4), scores (B, N) falling, labels (B, N). Empty places: all 0, label -1.

    Only the best `candidates` of an image are looked at.
    """
    best, places = scores.topk(min(candidates, scores.shape[1]), dim=1)
    boxes = boxes.gather(1, places.unsqueeze(-1).expand(-1, -1, 4))
    labels = labels.gather(1, places)
    valid = (best > score_threshold) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
    # boxes of each class in a part of the plane of their own do not meet those of others
    apart = labels.unsqueeze(-1) * (boxes.amax((1, 2), keepdim=True) + 1)
    keep = keep_mask(boxes + apart, valid, iou_threshold)
    best, places = torch.where(keep, best, -1.0).topk(min(max_detections, best.shape[1]), dim=1)
    there = best >= 0
    boxes = boxes.gather(1, places.unsqueeze(-1).expand(-1, -1, 4)) * there.unsqueeze(-1)
    return boxes, best.clamp(min=0), torch.where(there, labels.gather(1, places), -1)


@torch.library.custom_op("vision::greedy_keep_mask", mutates_args=())
def _greedy_keep_mask(boxes: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    keep = torch.zeros_like(valid)
    order = torch.arange(boxes.shape[1], 0, -1, dtype=torch.float32)
    for group in range(boxes.shape[0]):
        present = valid[group].nonzero().squeeze(1)
        kept = nms(boxes[group].float()[present], order[: len(present)], iou_threshold)
        keep[group, present[kept]] = True
    return keep


@_greedy_keep_mask.register_fake
def _(boxes: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(valid)


def _cluster_keep_mask(boxes: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    boxes = boxes.float()
    intersection = pairwise_intersection(boxes, boxes)  # (N, K, K)
    area = box_area(boxes)
    union = area.unsqueeze(-1) + area.unsqueeze(-2) - intersection
    # rows suppress columns; an earlier row has the higher score
    earlier = torch.ones(intersection.shape[-2:], dtype=torch.bool, device=boxes.device).triu(1)
    suppresses = (intersection > iou_threshold * union) & earlier & valid.unsqueeze(-1)
    suppresses = suppresses.float()
    keep = valid
    for _ in range(min(_ROUNDS, boxes.shape[1])):
        keep = valid & (torch.matmul(keep.float().unsqueeze(-2), suppresses).squeeze(-2) == 0)
    return keep
