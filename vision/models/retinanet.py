"""RetinaNet: focal loss on anchors of a feature pyramid (arXiv:1708.02002), and its second recipe.

Version 2 is torchvision's: group norm in the head, the pyramid's extra levels from the backbone's last map, GIoU
(arXiv:1902.09630) instead of L1; and anchors chosen by ATSS (arXiv:1912.02424), or by overlap as torchvision does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vision.backbones import build_backbone
from vision.backbones.base import Backbone
from vision.heads.dense import TowerHead
from vision.layers.norm import Norm
from vision.losses.detection import read_box_loss, read_class_loss
from vision.models.base import DenseOutputs
from vision.models.dense import DenseDetector, anchor_box_loss, class_score_loss
from vision.necks.fpn import FeaturePyramid
from vision.ops.anchor_match import adaptive_assignment
from vision.ops.anchors import AnchorGenerator
from vision.ops.assign import Assignment, gather_objects
from vision.ops.coders import decode_boxes
from vision.ops.match import overlap_assignment
from vision.structures import ClassMap, Targets

__all__ = ["RetinaNet", "build_retinanet"]

SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))


class RetinaNet(DenseDetector):
    """Anchors (P, 4) on five levels, nine a place; `deltas` are offsets from them.

    assignment: "overlap" (IoU of 0.5 and more is an object, less than 0.4 background) or "atss". box_loss, class_loss:
    see `losses.detection`. Each image's losses are divided by its own number of positives, as torchvision does.
    """

    candidates = 1000
    candidates_per_level = True
    iou_threshold = 0.5
    max_detections = 300

    def __init__(
        self,
        classes: ClassMap,
        backbone: Backbone,
        neck: FeaturePyramid,
        head: TowerHead,
        *,
        assignment: str = "overlap",
        box_loss: str | Mapping[str, Any] = "l1",
        class_loss: str | Mapping[str, Any] = "focal",
        smallest_anchor: int = 32,
    ):
        super().__init__(classes)
        if assignment not in ("overlap", "atss"):
            raise ValueError(f"RetinaNet: assignment {assignment!r}; choose 'overlap' or 'atss'")
        self.backbone, self.neck, self.head = backbone, neck, head
        self.assignment = assignment
        self.box_loss, self.class_loss = read_box_loss(box_loss, offsets=True), read_class_loss(class_loss)
        sizes = [[int(smallest_anchor * 2**level * scale) for scale in SCALES] for level in range(len(neck.channels))]
        self.anchors = AnchorGenerator(sizes)

    def forward(self, images: Tensor, targets: Targets | None = None) -> DenseOutputs:
        images = self.prepare(images)
        levels = self.neck(self.backbone(images))
        logits, deltas, _ = self.head(levels)
        anchors, strides = self.anchors([level.shape[-2:] for level in levels], images.shape[-2:])
        return DenseOutputs(logits, deltas, anchors, strides)

    def boxes_at(self, outputs: DenseOutputs, places: Tensor) -> Tensor:
        return decode_boxes(gather_objects(outputs.deltas, places), outputs.anchors[places])

    def assign(self, outputs: DenseOutputs, targets: Targets) -> Assignment:
        if self.assignment == "atss":
            places = len(SCALES) * 3
            return adaptive_assignment(outputs.anchors, outputs.strides, targets, places=places)
        return overlap_assignment(outputs.anchors, targets, low=0.4, high=0.5, best_for_each=True)

    def loss(self, outputs: DenseOutputs, targets: Targets) -> dict[str, Tensor]:
        assignment = self.assign(outputs, targets)
        positive = assignment.weight  # (B, P)
        share = 1 / (positive.sum(1, keepdim=True).clamp(min=1) * len(positive))  # (B, 1): of one anchor in the mean
        boxes = None
        if self.class_loss.learns_overlap:
            with torch.no_grad():
                boxes = decode_boxes(outputs.deltas, outputs.anchors)
        truth = gather_objects(targets.boxes, assignment.index)  # (B, P, 4)
        weight = positive * share
        return {
            "class": class_score_loss(self.class_loss, outputs.logits, targets, assignment, boxes, share),
            "box": anchor_box_loss(self.box_loss, outputs.deltas, outputs.anchors, truth, weight),
        }


def build_retinanet(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    version: int = 1,
    norm: Norm = "batch",
    width: int = 256,
    depth: int = 4,
    assignment: str | None = None,
    box_loss: str | Mapping[str, Any] | None = None,
    class_loss: str | Mapping[str, Any] = "focal",
    smallest_anchor: int = 32,
    backbone_options: dict[str, Any] | None = None,
) -> RetinaNet:
    """RetinaNet on levels 3 to 7 of any backbone. `version` 1 or 2 chooses what is None; `width` and `depth` are of
    pyramid and head; `norm` of the backbone; `smallest_anchor` in pixels, on the finest level; `box_loss` and
    `class_loss` as in `losses.detection`."""
    if version not in (1, 2):
        raise ValueError(f"build_retinanet: version {version}; choose 1 or 2")
    body = build_backbone(backbone, **{"levels": (3, 4, 5), "norm": norm, **(backbone_options or {})})
    neck = FeaturePyramid(body.channels, width, extra="p6p7" if version == 1 else "p6p7_c5")
    head = TowerHead(width, len(classes), anchors=len(SCALES) * 3, depth=depth, norm=None if version == 1 else "group")
    return RetinaNet(
        classes,
        body,
        neck,
        head,
        assignment=assignment or ("overlap" if version == 1 else "atss"),
        box_loss=box_loss or ("l1" if version == 1 else "giou"),
        class_loss=class_loss,
        smallest_anchor=smallest_anchor,
    )


build_retinanet_resnet18_fpn = partial(build_retinanet, backbone="resnet18", version=2)
build_retinanet_resnet50_fpn = partial(build_retinanet, backbone="resnet50")
build_retinanet_resnet50_fpn_v2 = partial(build_retinanet, backbone="resnet50", version=2)
build_retinanet_resnet101_fpn = partial(build_retinanet, backbone="resnet101", version=2)
