"""PSPNet, the pyramid scene parsing network (arXiv:1612.01105)."""

from __future__ import annotations

from typing import Any

from torch import nn

from vision.heads.segment import LevelHead, auxiliary_heads
from vision.layers.context import PyramidPooling
from vision.layers.conv import ConvNormAct
from vision.layers.norm import Norm
from vision.models.segmenter import DEFAULT_LOSS, Segmenter, build_features, logit_channels
from vision.structures import ClassMap

__all__ = ["PSPHead", "build_pspnet"]


class PSPHead(nn.Sequential):
    """Pyramid pooling, a convolution to `width`, dropout, classifier: (B, in_channels, h, w) -> (B, classes, h, w).

    `kernels` are those of the two convolutions: (3, 1) in the paper, (1, 3) in segmentation_models.pytorch.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: int = 512,
        dropout: float = 0.1,
        kernels: tuple[int, int] = (3, 1),
        norm: Norm = "batch",
        image_norm: Norm = "batch",
        align_corners: bool = False,
    ):
        pooling = PyramidPooling(in_channels, norm=norm, image_norm=image_norm, align_corners=align_corners)
        super().__init__(
            pooling,
            ConvNormAct(pooling.out_channels, width, kernels[0], norm=norm),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, classes, kernels[1], padding=kernels[1] // 2),
        )


def build_pspnet(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    output_stride: int = 8,
    width: int = 512,
    auxiliary: float = 0.0,
    level: int = 5,
    kernels: tuple[int, int] = (3, 1),
    image_norm: str | None = "batch",
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
    align_corners: bool = False,
) -> Segmenter:
    """PSPNet. `level` is the one that is pooled; `auxiliary`: weight of an FCN head on the level before it (0:
    none; the paper: 0.4). `kernels`, `image_norm` None and `align_corners` make it segmentation_models.pytorch's."""
    features = build_features(backbone, (level - 1, level), in_channels, backbone_options, output_stride=output_stride)
    count = logit_channels(classes, mode)
    head = PSPHead(
        features.channels[-1],
        count,
        width=width,
        kernels=kernels,
        image_norm=image_norm,
        align_corners=align_corners,
    )
    return Segmenter(
        classes,
        features,
        LevelHead(head),
        auxiliary=auxiliary_heads(auxiliary, features.channels, count),
        auxiliary_weight=auxiliary,
        loss=loss,
        mode=mode,
        in_channels=in_channels,
        align_corners=align_corners,
    )
