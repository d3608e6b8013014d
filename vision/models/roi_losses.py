"""The losses of two-stage detectors, on sampled anchors and regions; by default torchvision's on the same samples."""

from __future__ import annotations

import torch
from torch import Tensor

from vision.losses.classification import binary_cross_entropy, cross_entropy
from vision.losses.detection import DetectionLoss
from vision.models.base import DenseOutputs, RoiStage
from vision.models.dense import anchor_box_loss
from vision.ops.assign import IGNORE, gather_objects
from vision.ops.masks import crop_masks
from vision.ops.match import overlap_assignment
from vision.ops.reduce import global_mean_count
from vision.ops.sample import sample_balanced
from vision.structures import Targets

__all__ = ["mask_loss", "rpn_losses", "stage_losses"]


def rpn_losses(
    outputs: DenseOutputs,
    targets: Targets,
    box_loss: DetectionLoss,
    count: int,
    fraction: float,
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    """rpn_objectness and rpn_box (`box_loss` of the positive ones) over `count` sampled anchors an image.

    At most `fraction` of them are positive. An anchor is positive from an overlap of 0.7 or as the best of an object,
    negative below 0.3.
    """
    index = overlap_assignment(outputs.anchors, targets, low=0.3, high=0.7, best_for_each=True).index
    sample = sample_balanced(index >= 0, index == -1, count, fraction, generator)
    normaliser = global_mean_count(sample.valid.sum())
    logits = outputs.logits.squeeze(-1).gather(1, sample.places)
    objectness = binary_cross_entropy(logits, sample.positive.float(), weight=sample.valid, reduction="sum")
    truth = gather_objects(targets.boxes, index.gather(1, sample.places))
    deltas = outputs.deltas.gather(1, sample.places.unsqueeze(-1).expand(-1, -1, 4))
    box = anchor_box_loss(box_loss, deltas, outputs.anchors[sample.places], truth, sample.positive)
    return {"rpn_objectness": objectness / normaliser, "rpn_box": box / normaliser}


def stage_losses(
    stage: RoiStage, targets: Targets, box_loss: DetectionLoss, weights: tuple[float, float, float, float]
) -> dict[str, Tensor]:
    """class and box of one stage: softmax cross-entropy of all its regions, `box_loss` of the positive ones.

    Both are divided by the number of regions. `stage` must come from a forward with targets (ValueError).
    """
    if stage.index is None:
        raise ValueError("loss of a two-stage detector: the outputs were made without targets; give them to forward")
    classes = stage.logits.shape[-1] - 1
    positive = stage.index >= 0
    label = gather_objects(targets.labels, stage.index)  # (B, K)
    wanted = torch.where(positive, label, classes).masked_fill(stage.index == IGNORE, -100)
    normaliser = global_mean_count((stage.index != IGNORE).sum())
    classification = cross_entropy(stage.logits.flatten(0, 1), wanted.flatten(), ignore=-100, reduction="sum")
    deltas = stage.deltas
    column = torch.zeros_like(label) if deltas.shape[2] == 1 else label.clamp(min=0)
    deltas = deltas.gather(2, column[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)  # (B, K, 4)
    box = anchor_box_loss(box_loss, deltas, stage.boxes, gather_objects(targets.boxes, stage.index), positive, weights)
    return {"class": classification / normaliser, "box": box / normaliser}


def mask_loss(logits: Tensor, stage: RoiStage, targets: Targets) -> Tensor:
    """Mean sigmoid cross-entropy of the masks of the positive regions, in the channel of their class.

    logits (B, M, C, m, m) of the first M regions of `stage`. ValueError when the targets have no masks.
    """
    if targets.masks is None:
        raise ValueError("loss of a mask head: the targets have no masks; read the data set with masks")
    index = stage.index[:, : logits.shape[1]]
    positive = (index >= 0).flatten()
    label = gather_objects(targets.labels, index).clamp(min=0).flatten()
    size = logits.shape[-1]
    logits = logits.flatten(0, 1).gather(1, label.view(-1, 1, 1, 1).expand(-1, 1, size, size)).squeeze(1)
    row = (targets.mask_start.unsqueeze(1) + index.clamp(min=0)).flatten()
    row = row.clamp(max=max(targets.masks.shape[0] - 1, 0))  # what is not positive may point past the end
    with torch.no_grad():
        truth = crop_masks(targets.masks, stage.boxes[:, : index.shape[1]].flatten(0, 1), row, size)
    total = binary_cross_entropy(logits, truth, weight=positive.view(-1, 1, 1), reduction="sum")
    return total / (global_mean_count(positive.sum()) * size**2)
