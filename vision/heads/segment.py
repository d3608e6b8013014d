"""Heads of semantic segmentation: feature maps in, one map of class logits out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vision.layers.conv import ConvNormAct
from vision.layers.norm import Norm

__all__ = ["FCNHead", "LevelHead", "auxiliary_heads"]


class FCNHead(nn.Sequential):
    """A 3x3 convolution to `width` (default: a quarter of the channels), dropout, a 1x1 classifier.

    (B, in_channels, h, w) -> logits (B, classes, h, w). torchvision's FCN and everybody's auxiliary head.
    """

    def __init__(
        self, in_channels: int, classes: int, *, width: int | None = None, dropout: float = 0.1, norm: Norm = "batch"
    ):
        width = width or in_channels // 4
        super().__init__(
            ConvNormAct(in_channels, width, 3, norm=norm), nn.Dropout(dropout), nn.Conv2d(width, classes, 1)
        )


class LevelHead(nn.Module):
    """`head` applied to one level of a pyramid: list of feature maps -> logits of the map at index `level`."""

    def __init__(self, head: nn.Module, level: int = -1):
        super().__init__()
        self.head = head
        self.level = level

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.head(features[self.level])


def auxiliary_heads(weight: float, channels: Sequence[int], classes: int, *, level: int = 0) -> list[LevelHead]:
    """The auxiliary head learnt with `weight`: an FCN head on the backbone's level at index `level`; none for 0.

    `channels` are those of the backbone's levels.
    """
    return [LevelHead(FCNHead(channels[level], classes), level)] if weight else []
