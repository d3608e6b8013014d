"""DeepLab v3 (arXiv:1706.05587) and v3+ (arXiv:1802.02611): atrous spatial pyramid pooling, and a light decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vision.heads.segment import LevelHead, auxiliary_heads
from vision.layers.context import ASPP, SeparableConv, atrous_rates
from vision.layers.conv import ConvNormAct
from vision.layers.norm import Norm
from vision.layers.resize import resize
from vision.models.segmenter import DEFAULT_LOSS, Segmenter, build_features, logit_channels
from vision.structures import ClassMap

__all__ = ["DeepLabV3Head", "DeepLabV3PlusHead", "build_deeplab_v3", "build_deeplab_v3_plus"]


class DeepLabV3Head(nn.Sequential):
    """ASPP, a 3x3 convolution and a classifier: (B, in_channels, h, w) -> logits (B, classes, h, w)."""

    def __init__(
        self,
        in_channels: int,
        classes: int,
        rates: Sequence[int],
        *,
        width: int = 256,
        dropout: float = 0.5,
        norm: Norm = "batch",
    ):
        super().__init__(
            ASPP(in_channels, width, rates, dropout, norm=norm),
            ConvNormAct(width, width, 3, norm=norm),
            nn.Conv2d(width, classes, 1),
        )


class DeepLabV3PlusHead(nn.Module):
    """ASPP on the deepest map, joined with a map of stride 4 reduced to `skip_width` channels (v3+, figure 2).

    Features finest first (the first and the last are read) -> logits at the stride of the first.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        rates: Sequence[int],
        *,
        width: int = 256,
        skip_width: int = 48,
        dropout: float = 0.5,
        norm: Norm = "batch",
        align_corners: bool = False,
    ):
        super().__init__()
        self.aspp = ASPP(channels[-1], width, rates, dropout, separable=True, norm=norm)
        self.refine = SeparableConv(width, width, norm=norm)
        self.skip = ConvNormAct(channels[0], skip_width, 1, norm=norm)
        self.fuse = SeparableConv(width + skip_width, width, norm=norm)
        self.classifier = nn.Conv2d(width, classes, 1)
        self.align_corners = align_corners

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        fine = features[0]
        deep = resize(self.refine(self.aspp(features[-1])), fine.shape[-2:], align_corners=self.align_corners)
        return self.classifier(self.fuse(torch.cat([deep, self.skip(fine)], dim=1)))


def build_deeplab_v3(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    output_stride: int = 8,
    width: int = 256,
    rates: Sequence[int] | None = None,
    auxiliary: float = 0.0,
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
    align_corners: bool = False,
) -> Segmenter:
    """DeepLab v3. `rates` default to those of the output stride; `auxiliary` is the weight of an FCN head on the
    level before the deepest (0: none). `backbone_options`: see `backbones.BackboneOptions`."""
    features = build_features(backbone, (4, 5), in_channels, backbone_options, output_stride=output_stride)
    count = logit_channels(classes, mode)
    head = DeepLabV3Head(features.channels[-1], count, rates or atrous_rates(output_stride), width=width)
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


def build_deeplab_v3_plus(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    output_stride: int = 16,
    width: int = 256,
    rates: Sequence[int] | None = None,
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
    align_corners: bool = False,
) -> Segmenter:
    """DeepLab v3+ with any backbone. `width` is the channel count of ASPP and decoder (256 in the paper).

    `backbone_options` (see `backbones.BackboneOptions`) can name other `levels`, or `taps` of a MobileNet: its last
    1x1 convolution, made for classification, is left out with taps (3, 17) of mobilenet_v2.
    """
    features = build_features(backbone, (2, 5), in_channels, backbone_options, output_stride=output_stride)
    head = DeepLabV3PlusHead(
        features.channels,
        logit_channels(classes, mode),
        rates or atrous_rates(output_stride),
        width=width,
        align_corners=align_corners,
    )
    return Segmenter(
        classes, features, head, loss=loss, mode=mode, in_channels=in_channels, align_corners=align_corners
    )
