"""Cascade R-CNN (arXiv:1712.00726): three box stages, each trained at a higher overlap on what the last one left."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vision.heads.mask import MaskHead
from vision.heads.roi import BoxStage, TwoLayerBoxHead
from vision.models.faster_rcnn import pyramid_parts, read_settings
from vision.models.two_stage import TwoStageDetector
from vision.structures import ClassMap

__all__ = ["build_cascade_mask_rcnn", "build_cascade_rcnn"]

_STAGES: dict[str, Any] = {
    "stage_ious": (0.5, 0.6, 0.7),
    "box_weights": ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)),
    "stage_loss_weights": (1.0, 0.5, 0.25),
}


def build_cascade_rcnn(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    width: int = 256,
    hidden: int = 1024,
    masks: bool = False,
    settings: Mapping[str, Any] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
) -> TwoStageDetector:
    """Cascade R-CNN with a pyramid on any backbone; class-agnostic boxes, as in the paper.

    `masks` adds the mask head, trained on the regions of the first stage and applied to the final boxes. The same
    sampled regions pass through all stages and are matched anew before each.
    """
    settings = read_settings(settings, **_STAGES)
    parts = pyramid_parts(len(classes), backbone, "v1", width, hidden, backbone_options)
    stages = [
        BoxStage(TwoLayerBoxHead(width, width=hidden), len(classes), class_agnostic=True)
        for _ in settings.stage_ious
    ]  # fmt: skip
    head = MaskHead(width, len(classes), width=width) if masks else None
    return TwoStageDetector(classes, dataclasses.replace(parts, stages=stages, mask_head=head), settings)


def build_cascade_mask_rcnn(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    width: int = 256,
    hidden: int = 1024,
    settings: Mapping[str, Any] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
) -> TwoStageDetector:
    """Cascade Mask R-CNN: `build_cascade_rcnn` with its mask head."""
    return build_cascade_rcnn(
        classes, backbone=backbone, width=width, hidden=hidden, masks=True, settings=settings,
        backbone_options=backbone_options,
    )  # fmt: skip
