"""From scores and boxes of a batch to `Detections`: a fixed number of candidates, then class-aware NMS."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from vision.structures import Detections

__all__ = ["Candidates", "best_pairs", "gather_places", "select_candidates", "suppress"]


_TRIED = 3  # times the boxes that are wanted: most images need no second try


class Candidates(NamedTuple):
    """The best K (place, class) pairs of each image: scores (B, K) falling, places (B, K) and labels (B, K) int64."""

    scores: Tensor
    places: Tensor
    labels: Tensor


def select_candidates(scores: Tensor, count: int) -> Candidates:
    """The `count` highest of scores (B, P, C), over places and classes together; exactly, ties apart.

    Only the `count` places with the highest single class score can hold one of them, so the classes of the others
    are never sorted. Static shapes: exports and compiles.
    """
    places = scores.amax(-1).topk(min(count, scores.shape[1]), dim=1).indices  # (B, K)
    return best_pairs(gather_places(scores, places), places, count)


def gather_places(values: Tensor, places: Tensor) -> Tensor:
    """The rows (B, K, C) of values (B, P, C) at places (B, K)."""
    return values.gather(1, places.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def best_pairs(scores: Tensor, places: Tensor, count: int) -> Candidates:
    """The `count` highest of scores (B, K, C), the class scores of `places` (B, K)."""
    classes = scores.shape[-1]
    best, flat = scores.flatten(1).topk(min(count, scores.shape[1] * classes), dim=1)
    return Candidates(best, places.gather(1, flat // classes), flat % classes)


def suppress(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    class_agnostic: bool = False,
) -> list[Detections]:
    """NMS of the candidates of a batch: boxes (B, K, 4), scores (B, K), labels (B, K) -> one Detections an image.

    Drops what scores `score_threshold` or less and boxes without area, then, within a class (all classes together
    when `class_agnostic`), boxes that overlap a better one by more than `iou_threshold`; keeps the best
    `max_detections`, by falling score. Runs at the ragged edge: it loops over images and syncs with the host.
    """
    results = []
    for box, score, label in zip(boxes.float(), scores.float(), labels):
        keep = (score > score_threshold) & (box[:, 2:] > box[:, :2]).all(-1)
        box, score, label = box[keep], score[keep], label[keep]
        group = torch.zeros_like(label) if class_agnostic else label
        chosen = _best_of_nms(box, score, group, iou_threshold, max_detections)
        results.append(Detections(box[chosen], score[chosen], label[chosen]))
    return results


def _best_of_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, count: int) -> Tensor:
    """The first `count` of torchvision's `batched_nms`: places (<= count,) of N boxes, by falling score.

    A box hangs on better ones alone: the best few are tried first, more of them only where too few of those stay.
    """
    order = scores.argsort(descending=True, stable=True)
    tried = _TRIED * count
    while True:
        part = order[:tried]
        kept = part[batched_nms(boxes[part], scores[part], groups[part], iou_threshold)]
        if len(kept) >= count or tried >= len(order):
            return kept[:count]
        tried *= _TRIED
