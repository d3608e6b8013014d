"""Mask R-CNN (arXiv:1703.06870): Faster R-CNN on a pyramid with a mask for each box."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vision.heads.mask import MaskHead
from vision.models.faster_rcnn import pyramid_parts, read_settings
from vision.models.two_stage import TwoStageDetector
from vision.structures import ClassMap

__all__ = ["build_mask_rcnn"]


def build_mask_rcnn(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    recipe: str = "v1",
    width: int = 256,
    hidden: int = 1024,
    settings: Mapping[str, Any] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
) -> TwoStageDetector:
    """Mask R-CNN with a pyramid on any backbone, as torchvision's maskrcnn_resnet50_fpn (recipe "v1" or "v2")."""
    parts = pyramid_parts(len(classes), backbone, recipe, width, hidden, backbone_options)
    head = MaskHead(width, len(classes), norm="batch" if recipe == "v2" else None, width=width)
    return TwoStageDetector(classes, dataclasses.replace(parts, mask_head=head), read_settings(settings))
