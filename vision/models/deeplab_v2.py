"""DeepLab v2 (arXiv:1606.00915): class scores from atrous convolutions of four rates, added up; optional dense CRF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vision.heads.segment import LevelHead
from vision.models.segmenter import DEFAULT_LOSS, Segmenter, build_features, logit_channels
from vision.structures import ClassMap

__all__ = ["SummedAtrousHead", "build_deeplab_v2"]


class SummedAtrousHead(nn.Module):
    """The sum of one classifier a rate: (B, in_channels, h, w) -> logits (B, classes, h, w).

    With `hidden` each branch is a 3x3 atrous convolution and a 1x1 one of that many channels before the classifier
    (the paper's VGG-16, "fc6" to "fc8"); with 0 a single 3x3 atrous classifier (its ResNet-101).
    """

    def __init__(self, in_channels: int, classes: int, rates: Sequence[int], *, hidden: int = 0, dropout: float = 0.5):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(in_channels, hidden, 3, padding=rate, dilation=rate), nn.ReLU(True), nn.Dropout(dropout)),
                *(nn.Conv2d(hidden, hidden, 1), nn.ReLU(True), nn.Dropout(dropout)),
                nn.Conv2d(hidden, classes, 1),
            )
            if hidden
            else nn.Conv2d(in_channels, classes, 3, padding=rate, dilation=rate)
            for rate in rates
        )

    def forward(self, x: Tensor) -> Tensor:
        logits = self.branches[0](x)
        for branch in self.branches[1:]:
            logits = logits + branch(x)
        return logits


def build_deeplab_v2(
    classes: ClassMap,
    *,
    backbone: str = "resnet101",
    output_stride: int = 8,
    rates: Sequence[int] = (6, 12, 18, 24),
    hidden: int = 0,
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
) -> Segmenter:
    """DeepLab v2 with "ASPP-L". Its dense CRF is `ops.crf.dense_crf`, applied to the probabilities after `decode`.

    The paper's VGG-16 variant: `backbone` "vgg16" and `hidden` 1024.
    """
    features = build_features(backbone, (5,), in_channels, backbone_options, output_stride=output_stride)
    head = SummedAtrousHead(features.channels[-1], logit_channels(classes, mode), rates, hidden=hidden)
    return Segmenter(classes, features, LevelHead(head), loss=loss, mode=mode, in_channels=in_channels)
