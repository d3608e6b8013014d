"""From the outputs of two-stage detectors to `Detections`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vision.models.base import RoiStage
from vision.ops.boxes import clip_boxes
from vision.ops.coders import decode_boxes
from vision.ops.masks import paste_masks
from vision.ops.nms import select_candidates, suppress
from vision.ops.roi import pool_regions
from vision.structures import Detections

__all__ = ["decode_boxes_of_stages", "decode_masks"]

_CANDIDATES = 4000  # (region, class) pairs that enter NMS: more than ever score above the usual threshold
_SMALLEST = 1e-2  # pixels, as torchvision


def decode_boxes_of_stages(
    stages: Sequence[RoiStage],
    sizes: Tensor,
    weights: tuple[float, float, float, float],
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    class_agnostic: bool = False,
) -> list[Detections]:
    """Boxes of the last stage with the class scores averaged over the stages (Cascade R-CNN, arXiv:1712.00726).

    `weights` are those of the last stage's offsets. Boxes are clipped to `sizes` (B, 2) and those with a side below
    0.01 pixels dropped, before NMS.
    """
    last = stages[-1]
    scores = torch.stack([stage.logits.float().softmax(-1)[..., :-1] for stage in stages]).mean(0)
    scores = scores * last.valid.unsqueeze(-1)
    best = select_candidates(scores, _CANDIDATES)
    # only the chosen (region, class) pairs are decoded
    rows = torch.arange(len(best.places), device=best.places.device).unsqueeze(1)
    columns = torch.zeros_like(best.labels) if last.deltas.shape[2] == 1 else best.labels
    boxes = decode_boxes(last.deltas[rows, best.places, columns], last.boxes[rows, best.places], weights)
    boxes = clip_boxes(boxes, sizes.to(boxes.device))
    large = (boxes[..., 2:] - boxes[..., :2] >= _SMALLEST).all(-1)
    return suppress(
        boxes,
        torch.where(large, best.scores, -1.0),
        best.labels,
        score_threshold=max(score_threshold, 0.0),
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        class_agnostic=class_agnostic,
    )


def decode_masks(
    found: list[Detections],
    features: Sequence[Tensor],
    strides: Sequence[int],
    size: int,
    head: nn.Module,
    sizes: Tensor,
) -> list[Detections]:
    """`found` with the mask of each box, of its class, pasted into images of `sizes` (B, 2).

    The head runs in the precision that the features were computed in, as the rest of the network did.
    """
    boxes = torch.cat([detections.boxes for detections in found])
    labels = torch.cat([detections.labels for detections in found])
    counts = [len(detections) for detections in found]
    images = torch.repeat_interleave(
        torch.arange(len(found), device=boxes.device), torch.tensor(counts, device=boxes.device)
    )
    if len(boxes):
        dtype, device = features[0].dtype, features[0].device.type
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            logits = head(pool_regions(features, boxes, images, strides, size))
        masks = logits[torch.arange(len(boxes), device=boxes.device), labels].float().sigmoid()
    else:
        masks = boxes.new_zeros(0, 2 * size, 2 * size)
    pasted = [
        paste_masks(mask, detections.boxes, tuple(extent))
        for mask, detections, extent in zip(masks.split(counts), found, sizes.tolist())
    ]
    return [dataclasses.replace(detections, masks=mask) for detections, mask in zip(found, pasted)]
