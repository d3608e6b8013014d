"""FCOS: every place of a pyramid says its class, its distances to the box's sides and its centre-ness.

arXiv:1904.01355, with centre sampling, the GIoU loss and centre-ness beside the boxes, as in its later version.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.backbones import build_backbone
from vision.backbones.base import Backbone
from vision.heads.dense import TowerHead
from vision.layers.norm import Norm
from vision.losses.classification import binary_cross_entropy
from vision.losses.detection import read_box_loss, read_class_loss
from vision.models.base import DenseOutputs
from vision.models.dense import DenseDetector, class_score_loss
from vision.necks.fpn import FeaturePyramid
from vision.ops.assign import centre_assignment, gather_objects
from vision.ops.points import decode_distances, encode_distances
from vision.ops.reduce import global_mean_count
from vision.structures import ClassMap, Targets

__all__ = ["FCOS", "FIRST_DISTANCE", "build_fcos"]


# strides to each side: half of the largest object of a level. Boxes of no size, with which torchvision starts, have no
# gradient of their IoU, and behind the ReLU they can stay so for ever
FIRST_DISTANCE = 4.0


class FCOS(DenseDetector):
    """Points (P, 2) on five levels; `deltas` are distances to the sides in strides; `quality` is centre-ness.

    The points are the cells' corners (j s, i s), as torchvision's, whose checkpoints load; the paper's lie in the
    middle. `box_loss` and `class_loss`: see `losses.detection`. A head without centre-ness scores by its classes alone,
    as those that learn the boxes' overlap do (GFL, arXiv:2006.04388; VarifocalNet, arXiv:2008.13367).
    """

    candidates = 1000
    candidates_per_level = True
    score_threshold = 0.2
    iou_threshold = 0.6

    def __init__(
        self,
        classes: ClassMap,
        backbone: Backbone,
        neck: FeaturePyramid,
        head: TowerHead,
        *,
        box_loss: str | Mapping[str, Any] = "giou",
        class_loss: str | Mapping[str, Any] = "focal",
    ):
        super().__init__(classes)
        self.backbone, self.neck, self.head = backbone, neck, head
        self.box_loss, self.class_loss = read_box_loss(box_loss), read_class_loss(class_loss)
        if head.quality is None:  # FCOS's own is for the geometric mean with centre-ness, which is larger
            self.score_threshold = DenseDetector.score_threshold

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
        points, strides, finest = [], [], float(self.backbone.strides[0])
        for number, level in enumerate(levels):
            height, width = level.shape[-2:]
            # a grid that does not divide the image has another step than its stride; torchvision's choice
            x = torch.arange(width, device=level.device, dtype=torch.float32) * (size[1] // width)
            y = torch.arange(height, device=level.device, dtype=torch.float32) * (size[0] // height)
            grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
            points.append(grid.reshape(-1, 2))
            strides.append(torch.full((height * width,), finest * 2**number, device=level.device))
        return torch.cat(points), torch.cat(strides)

    def scores(self, logits: Tensor, quality: Tensor | None = None) -> Tensor:
        """The geometric mean of class score and centre-ness, or the class score where there is none."""
        if quality is None:
            return super().scores(logits)
        return (logits.float().sigmoid() * quality.float().sigmoid().unsqueeze(-1)).sqrt()

    def boxes_at(self, outputs: DenseOutputs, places: Tensor) -> Tensor:
        distances = gather_objects(outputs.deltas, places).float() * outputs.strides[places].unsqueeze(-1)
        return decode_distances(outputs.anchors[places], distances)

    def loss(self, outputs: DenseOutputs, targets: Targets) -> dict[str, Tensor]:
        points, strides = outputs.anchors, outputs.strides
        assignment = centre_assignment(points, strides, targets)
        positive = assignment.weight
        total = global_mean_count(positive.sum())
        truth = gather_objects(targets.boxes, assignment.index)  # (B, P, 4)
        boxes = decode_distances(points, outputs.deltas.float() * strides.unsqueeze(-1))
        losses = {"class": class_score_loss(self.class_loss, outputs.logits, targets, assignment, boxes)}
        # a place without an object is compared with a box around itself: its weight is 0, and no NaN comes of it
        around = decode_distances(points, strides.unsqueeze(-1).expand(-1, 4))
        losses["box"] = self.box_loss(boxes, torch.where(positive.unsqueeze(-1) > 0, truth, around), positive)
        if outputs.quality is not None:
            centreness = _centreness(encode_distances(points, truth) / strides.unsqueeze(-1))
            losses["centre"] = binary_cross_entropy(outputs.quality, centreness, weight=positive, reduction="sum")
        return {name: value / total for name, value in losses.items()}


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
    box_loss: str | Mapping[str, Any] = "giou",
    class_loss: str | Mapping[str, Any] = "focal",
    backbone_options: dict[str, Any] | None = None,
) -> FCOS:
    """FCOS on levels 3 to 7 of any backbone; `width` and `depth` are of pyramid and head, `norm` of the backbone.

    `box_loss` and `class_loss` as in `losses.detection`; with a class loss that learns the boxes' overlap there is no
    centre-ness.
    """
    body = build_backbone(backbone, **{"levels": (3, 4, 5), "norm": norm, **(backbone_options or {})})
    neck = FeaturePyramid(body.channels, width, extra="p6p7")
    centreness = not read_class_loss(class_loss).learns_overlap
    head = TowerHead(
        width, len(classes), depth=depth, quality=centreness, norm="group", bias=True, first_delta=FIRST_DISTANCE
    )
    return FCOS(classes, body, neck, head, box_loss=box_loss, class_loss=class_loss)


build_fcos_resnet18_fpn = partial(build_fcos, backbone="resnet18")
build_fcos_resnet50_fpn = partial(build_fcos, backbone="resnet50")
build_fcos_resnet101_fpn = partial(build_fcos, backbone="resnet101")
