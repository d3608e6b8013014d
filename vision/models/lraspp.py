"""LR-ASPP, the light segmentation head of MobileNetV3 (arXiv:1905.02244, section 6.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vision.layers.conv import ConvNormAct
from vision.layers.norm import Norm
from vision.layers.pooling import image_mean
from vision.layers.resize import resize
from vision.models.segmenter import DEFAULT_LOSS, Segmenter, build_features, logit_channels
from vision.structures import ClassMap

__all__ = ["LRASPPHead", "build_lraspp"]


class LRASPPHead(nn.Module):
    """Deep features gated by their image mean, their class scores added to those of a finer level.

    Features finest first (the first and the last are read) -> logits at the stride of the first.
    """

    def __init__(self, channels: Sequence[int], classes: int, *, width: int = 128, norm: Norm = "batch"):
        super().__init__()
        self.project = ConvNormAct(channels[-1], width, 1, norm=norm)
        self.gate = nn.Conv2d(channels[-1], width, 1, bias=False)
        self.low_classifier = nn.Conv2d(channels[0], classes, 1)
        self.high_classifier = nn.Conv2d(width, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        low, high = features[0], features[-1]
        gate = torch.sigmoid(self.gate(image_mean(high)))
        # the classifier is linear and the weights of bilinear resizing sum to 1: scoring first gives the same logits
        # from a map of C channels in place of `width`
        scores = self.high_classifier(self.project(high) * gate)
        return self.low_classifier(low) + resize(scores, low.shape[-2:])


def build_lraspp(
    classes: ClassMap,
    *,
    backbone: str = "mobilenet_v3_large",
    output_stride: int = 16,
    width: int = 128,
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
) -> Segmenter:
    """LR-ASPP on levels 3 and 5. As torchvision's with `backbone_options` {"taps": [4, 16]}: the first block of
    stride 8 rather than the last."""
    features = build_features(backbone, (3, 5), in_channels, backbone_options, output_stride=output_stride)
    head = LRASPPHead(features.channels, logit_channels(classes, mode), width=width)
    return Segmenter(classes, features, head, loss=loss, mode=mode, in_channels=in_channels)
