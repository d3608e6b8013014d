"""From scores and boxes of a batch to `Detections`: a fixed number of candidates, then class-aware NMS."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from vision.structures import Detections

__all__ = ["Candidates", "select_candidates", "select_detections", "suppress"]


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
    places, classes = scores.shape[1:]
    kept = min(count, places)
    if classes == 1:
        best, place = scores.squeeze(-1).topk(kept, dim=1)
        return Candidates(best, place, torch.zeros_like(place))
    place = scores.amax(-1).topk(kept, dim=1).indices  # (B, kept)
    rows = scores.gather(1, place.unsqueeze(-1).expand(-1, -1, classes)).flatten(1)
    best, flat = rows.topk(min(count, kept * classes), dim=1)
    return Candidates(best, place.gather(1, flat // classes), flat % classes)


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
        chosen = batched_nms(box, score, group, iou_threshold)[:max_detections]
        results.append(Detections(box[chosen], score[chosen], label[chosen]))
    return results


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    candidates: int = 1000,
    class_agnostic: bool = False,
) -> list[Detections]:
    """Detections of each image from boxes (B, P, 4) and scores (B, P, C): `select_candidates`, then `suppress`."""
    best = select_candidates(scores, candidates)
    chosen = boxes.gather(1, best.places.unsqueeze(-1).expand(-1, -1, 4))
    return suppress(
        chosen,
        best.scores,
        best.labels,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        class_agnostic=class_agnostic,
    )
