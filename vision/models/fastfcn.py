"""FastFCN (arXiv:1903.11816): joint pyramid upsampling on an undilated backbone, before any dense head."""

from __future__ import annotations

from typing import Any

from torch import nn

from vision.heads.segment import FCNHead, LevelHead, auxiliary_heads
from vision.layers.context import atrous_rates
from vision.models.deeplab import DeepLabV3Head
from vision.models.encnet import EncNet, EncodingHead
from vision.models.pspnet import PSPHead
from vision.models.segmenter import DEFAULT_LOSS, Segmenter, build_features, logit_channels
from vision.necks.jpu import JointPyramidUpsampling
from vision.structures import ClassMap

__all__ = ["HEADS", "build_fastfcn"]

HEADS = ("fcn", "psp", "deeplab", "encoding")


def _build_head(name: str, in_channels: int, classes: int, width: int) -> nn.Module:
    if name == "fcn":
        return LevelHead(FCNHead(in_channels, classes, width=width))
    if name == "psp":
        return LevelHead(PSPHead(in_channels, classes, width=width))
    if name == "deeplab":
        return LevelHead(DeepLabV3Head(in_channels, classes, atrous_rates(8), width=max(width // 2, 1)))
    if name == "encoding":
        return EncodingHead(in_channels, classes, width=width)
    raise ValueError(f"build_fastfcn: head {name!r} is not known; choose one of: {', '.join(HEADS)}")


def build_fastfcn(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    head: str = "encoding",
    width: int = 512,
    auxiliary: float = 0.0,
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
) -> Segmenter:
    """FastFCN: JPU of `width` on levels 3 to 5, then the head of FCN, PSPNet, DeepLab v3 or EncNet at stride 8.

    `auxiliary`: weight of an FCN head on level 4 of the backbone (0: none).
    """
    features = build_features(backbone, (3, 4, 5), in_channels, backbone_options)
    neck = JointPyramidUpsampling(features.channels, width)
    count = logit_channels(classes, mode)
    network = EncNet if head == "encoding" else Segmenter
    return network(
        classes,
        features,
        _build_head(head, neck.out_channels, count, width),
        neck=neck,
        auxiliary=auxiliary_heads(auxiliary, features.channels, count, level=1),
        auxiliary_weight=auxiliary,
        loss=loss,
        mode=mode,
        in_channels=in_channels,
    )
