"""YOLO without anchors: CSP backbone, path aggregation, decoupled head, task-aligned assignment.

Put together from the papers: YOLOX (arXiv:2107.08430: anchor-free, decoupled head), TOOD (2108.07755: task-aligned
assignment and soft targets), GFL (2006.04388: distances as distributions), CIoU (1911.08287), CSPNet (1911.11929).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vision.backbones.darknet import CSPDarknet, yolo_norm, yolo_scale
from vision.heads.dense import DecoupledHead
from vision.losses.boxes import distribution_focal_loss
from vision.losses.detection import read_box_loss, read_class_loss
from vision.models.base import DenseOutputs
from vision.models.dense import DenseDetector, class_score_loss
from vision.necks.pan import PathAggregation
from vision.ops.assign import Assignment, gather_objects, task_aligned_assignment
from vision.ops.points import decode_distributions, encode_distances, grid_points
from vision.ops.reduce import global_mean_count
from vision.structures import ClassMap, Targets

__all__ = ["YOLO", "build_yolo", "build_yolo_l", "build_yolo_m", "build_yolo_n", "build_yolo_s", "build_yolo_x"]


class YOLO(DenseDetector):
    """Anchor-free one-stage detector on strides 8, 16, 32; outputs `deltas` are 4 distributions over `bins` distances.

    `topk`, `alpha`, `beta` belong to the assignment; `box_weight`, `class_weight`, `distribution_weight` to the loss,
    whose parts on boxes and classes are `box_loss` and `class_loss` (see `losses.detection`).
    """

    def __init__(
        self,
        classes: ClassMap,
        *,
        depth: float,
        width: float,
        bins: int = 16,
        topk: int = 10,
        alpha: float = 1.0,
        beta: float = 6.0,
        box_weight: float = 5.0,
        class_weight: float = 1.0,
        distribution_weight: float = 1.0,
        activation: str = "silu",
        box_loss: str | Mapping[str, Any] = "ciou",
        class_loss: str | Mapping[str, Any] = "bce",
    ):
        # [0, 1] as it comes: the first batch norm does the rest
        super().__init__(classes, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self.bins, self.topk, self.alpha, self.beta = bins, topk, alpha, beta
        self.box_loss, self.class_loss = read_box_loss(box_loss), read_class_loss(class_loss)
        self.weights = {"box": box_weight, "class": class_weight, "distribution": distribution_weight}
        norm = yolo_norm
        channels, depths = yolo_scale(depth, width)
        self.backbone = CSPDarknet(channels, depths, norm=norm, activation=activation)
        self.neck = PathAggregation(channels[2:], depths[3], norm=norm, activation=activation)
        self.head = DecoupledHead(
            channels[2:],
            len(self.classes),
            4 * bins,
            class_width=channels[2],
            box_width=channels[2],
            depth=max(1, round(2 * depth)),
            norm=norm,
            activation=activation,
        )

    def forward(self, images: Tensor, targets: Targets | None = None) -> DenseOutputs:
        levels = self.neck(self.backbone(self.prepare(images)))
        logits, deltas = self.head(levels)
        shapes = [level.shape[-2:] for level in levels]
        points, strides = grid_points(shapes, self.backbone.strides, images.device)
        return DenseOutputs(logits, deltas, points, strides)

    def loss(self, outputs: DenseOutputs, targets: Targets) -> dict[str, Tensor]:
        logits = outputs.logits.float()
        with torch.no_grad():
            boxes = decode_distributions(outputs.anchors, outputs.strides, outputs.deltas)
            assignment = task_aligned_assignment(
                logits.sigmoid(), boxes, outputs.anchors, targets, topk=self.topk, alpha=self.alpha, beta=self.beta
            )
        total = global_mean_count(assignment.weight.sum())
        losses = self._box_losses(outputs, targets, assignment)
        losses["class"] = class_score_loss(self.class_loss, logits, targets, assignment, boxes)
        return {name: value * self.weights[name] / total for name, value in losses.items()}

    def _box_losses(self, outputs: DenseOutputs, targets: Targets, assignment: Assignment) -> dict[str, Tensor]:
        # only as many places as can be positive, a fixed number, so that most places cost nothing here
        count = min(assignment.index.shape[1], self.topk * targets.boxes.shape[1])
        weight, places = assignment.weight.topk(count, dim=1)  # (B, K)
        points, strides = outputs.anchors[places], outputs.strides[places]
        deltas = gather_objects(outputs.deltas, places).float()  # (B, K, 4 * bins)
        truth = gather_objects(targets.boxes, assignment.index.gather(1, places))
        boxes = decode_distributions(points, strides, deltas)
        distances = encode_distances(points, truth) / strides.unsqueeze(-1)
        distribution = distribution_focal_loss(
            deltas.unflatten(-1, (4, self.bins)), distances.clamp(0, self.bins - 1.01), reduction="none"
        )
        return {
            "box": self.box_loss(boxes, truth, weight),
            "distribution": (distribution.mean(-1) * weight).sum(),
        }

    def boxes_at(self, outputs: DenseOutputs, places: Tensor) -> Tensor:
        deltas = gather_objects(outputs.deltas, places)
        return decode_distributions(outputs.anchors[places], outputs.strides[places], deltas)


def build_yolo(
    classes: ClassMap,
    *,
    depth: float,
    width: float,
    activation: str = "silu",
    box_loss: str | Mapping[str, Any] = "ciou",
    class_loss: str | Mapping[str, Any] = "bce",
) -> YOLO:
    """YOLO with `depth` times the blocks and `width` times the channels of the large one; losses as in
    `losses.detection`."""
    return YOLO(classes, depth=depth, width=width, activation=activation, box_loss=box_loss, class_loss=class_loss)


# nano: 3 M parameters, 8 GFLOPs at 640 px; then small, medium, large and extra large
build_yolo_n = partial(build_yolo, depth=1 / 3, width=0.25)
build_yolo_s = partial(build_yolo, depth=1 / 3, width=0.5)
build_yolo_m = partial(build_yolo, depth=2 / 3, width=0.75)
build_yolo_l = partial(build_yolo, depth=1.0, width=1.0)
build_yolo_x = partial(build_yolo, depth=1.33, width=1.25)
