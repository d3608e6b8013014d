"""FCOS: every place of a pyramid says its class, its distances to the box's sides and its centre-ness.

arXiv:1904.01355, with centre sampling, the GIoU loss and centre-ness beside the boxes, as in its later version.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.backbones import build_backbone
from vision.backbones.base import Backbone
from vision.heads.dense import TowerHead
from vision.layers.norm import Norm
from vision.losses.boxes import box_iou_loss
from vision.losses.classification import binary_cross_entropy, sigmoid_focal_loss
from vision.models.base import DenseOutputs
from vision.models.dense import DenseDetector, class_targets
from vision.necks.fpn import FeaturePyramid
from vision.ops.assign import centre_assignment, gather_objects
from vision.ops.points import decode_distances, encode_distances
from vision.ops.reduce import global_mean_count
from vision.structures import ClassMap, Targets

__all__ = ["FCOS", "build_fcos"]


class FCOS(DenseDetector):
    """Points (P, 2) on five levels; `deltas` are distances to the sides in strides; `quality` is centre-ness.

    The points are the cells' corners (j s, i s), as torchvision's, whose checkpoints load; the paper's lie in the
    middle.
    """

    candidates = 1000
    candidates_per_level = True
    score_threshold = 0.2
    iou_threshold = 0.6

    def __init__(self, classes: ClassMap, backbone: Backbone, neck: FeaturePyramid, head: TowerHead):
        super().__init__(classes)
        self.backbone, self.neck, self.head = backbone, neck, head

    def forward(self, images: Tensor, targets: Targets | None = None) -> DenseOutputs:
        images = self.prepare(images)
        return self.read(self.neck(self.backbone(images)), images.shape[-2:])

    def read(self, levels: list[Tensor], size: tuple[int, int]) -> DenseOutputs:
        """What the head says of the pyramid's `levels` of prepared images of `size` (height, width)."""
        logits, deltas, quality = self.head(levels)
        points, strides = self._points(levels, size)
        return DenseOutputs(logits, F.relu(deltas), points, strides, quality)

    def _points(self, levels: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Places (P, 2) and the sides (P,) of torchvision's square anchors there, which are its units of length."""
        points, strides = [], []
        for number, level in enumerate(levels):
            height, width = level.shape[-2:]
            # a grid that does not divide the image has another step than its stride; torchvision's choice
            x = torch.arange(width, device=level.device, dtype=torch.float32) * (size[1] // width)
            y = torch.arange(height, device=level.device, dtype=torch.float32) * (size[0] // height)
            grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
            points.append(grid.reshape(-1, 2))
            strides.append(torch.full((height * width,), 8.0 * 2**number, device=level.device))
        return torch.cat(points), torch.cat(strides)

    def scores(self, outputs: DenseOutputs) -> Tensor:
        """The geometric mean of class score and centre-ness."""
        return (outputs.logits.float().sigmoid() * outputs.quality.float().sigmoid().unsqueeze(-1)).sqrt()

    def boxes_at(self, outputs: DenseOutputs, places: Tensor) -> Tensor:
        distances = gather_objects(outputs.deltas, places).float() * outputs.strides[places].unsqueeze(-1)
        return decode_distances(outputs.anchors[places], distances)

    def loss(self, outputs: DenseOutputs, targets: Targets) -> dict[str, Tensor]:
        points, strides = outputs.anchors, outputs.strides
        assignment = centre_assignment(points, strides, targets)
        positive = assignment.weight
        total = global_mean_count(positive.sum())
        counted = (assignment.index >= -1).unsqueeze(-1)
        wanted = class_targets(outputs.logits, targets, assignment)
        focal = sigmoid_focal_loss(outputs.logits, wanted, weight=counted, reduction="sum")

        truth = gather_objects(targets.boxes, assignment.index)  # (B, P, 4)
        distances = encode_distances(points, truth) / strides.unsqueeze(-1)
        boxes = decode_distances(points, outputs.deltas.float() * strides.unsqueeze(-1))
        # a place without an object is compared with a box around itself: its weight is 0, and no NaN comes of it
        around = decode_distances(points, strides.unsqueeze(-1).expand(-1, 4))
        truth = torch.where(positive.unsqueeze(-1) > 0, truth, around)
        giou = box_iou_loss(boxes, truth, kind="giou", weight=positive, reduction="sum")
        centre = binary_cross_entropy(outputs.quality, _centreness(distances), weight=positive, reduction="sum")
        return {"class": focal / total, "box": giou / total, "centre": centre / total}


def _centreness(distances: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of distances (..., 4); 0 outside the box (section 3.3)."""
    pairs = distances.clamp(min=0).unflatten(-1, (2, 2))  # (..., 2, 2): l t, r b
    return (pairs.amin(-2) / pairs.amax(-2).clamp(min=1e-9)).prod(-1).sqrt()


def build_fcos(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    norm: Norm = "batch",
    width: int = 256,
    depth: int = 4,
    backbone_options: dict[str, Any] | None = None,
) -> FCOS:
    """FCOS on levels 3 to 7 of any backbone; `width` and `depth` are of pyramid and head, `norm` of the backbone."""
    body = build_backbone(backbone, levels=(3, 4, 5), norm=norm, **(backbone_options or {}))
    neck = FeaturePyramid(body.channels, width, extra="p6p7")
    head = TowerHead(width, len(classes), depth=depth, quality=True, norm="group", bias=True)
    return FCOS(classes, body, neck, head)


build_fcos_resnet18_fpn = partial(build_fcos, backbone="resnet18")
build_fcos_resnet50_fpn = partial(build_fcos, backbone="resnet50")
build_fcos_resnet101_fpn = partial(build_fcos, backbone="resnet101")
