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
from vision.ops.nms import select_candidates
from vision.ops.roi import pool_regions
from vision.structures import Detections

__all__ = ["decode_masks", "propose_of_stages", "region_masks"]

_CANDIDATES = 4000  # (region, class) pairs that enter NMS: more than ever score above the usual threshold
_SMALLEST = 1e-2  # pixels, as torchvision


def propose_of_stages(
    stages: Sequence[RoiStage], sizes: Tensor, weights: tuple[float, float, float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """What enters NMS: boxes (B, K, 4), scores (B, K), labels (B, K), with a fixed K; without a gradient.

    Boxes of the last stage with the class scores averaged over the stages (Cascade R-CNN, arXiv:1712.00726). `weights`
    are those of the last stage's offsets. Boxes are clipped to `sizes` (B, 2); those with a side below 0.01 pixels
    score -1.
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
    return boxes, torch.where(large, best.scores, -1.0), best.labels


def region_masks(
    features: Sequence[Tensor], boxes: Tensor, labels: Tensor, images: Tensor, strides: Sequence[int], size: int,
    head: nn.Module,
) -> Tensor:  # fmt: skip
    """Probabilities (N, m, m) within boxes (N, 4) of the images (N,), each of its class in labels (N,).

    The head runs in the precision that the features were computed in, as the rest of the network did.
    """
    dtype, device = features[0].dtype, features[0].device.type
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        logits = head(pool_regions(features, boxes, images, strides, size))
    chosen = labels.view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[-2:])
    return logits.gather(1, chosen).squeeze(1).float().sigmoid()


def decode_masks(
    found: list[Detections],
    features: Sequence[Tensor],
    strides: Sequence[int],
    size: int,
    head: nn.Module,
    sizes: Tensor,
) -> list[Detections]:
    """`found` with the mask of each box, of its class, pasted into images of `sizes` (B, 2)."""
    boxes = torch.cat([detections.boxes for detections in found])
    labels = torch.cat([detections.labels for detections in found])
    counts = [len(detections) for detections in found]
    images = torch.repeat_interleave(
        torch.arange(len(found), device=boxes.device), torch.tensor(counts, device=boxes.device)
    )
    if len(boxes):
        masks = region_masks(features, boxes, labels, images, strides, size, head)
    else:
        masks = boxes.new_zeros(0, 2 * size, 2 * size)
    pasted = [
        paste_masks(mask, detections.boxes, tuple(extent))
        for mask, detections, extent in zip(masks.split(counts), found, sizes.tolist())
    ]
    return [dataclasses.replace(detections, masks=mask) for detections, mask in zip(found, pasted)]
