"""The CSP backbone of the YOLO models (Darknet with cross-stage partial blocks, arXiv:1804.02767, arXiv:1911.11929)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from vision.backbones.base import Backbone
from vision.layers.conv import ConvNormAct
from vision.layers.csp import CSPBlock, PoolingPyramid
from vision.layers.norm import Norm

__all__ = ["CSPDarknet"]


class CSPDarknet(Backbone):
    """Stem, four stages of a strided convolution and a CSP block, and pooling at the end -> levels 3, 4, 5.

    channels: of the stem (stride 2) and of the stages (strides 4, 8, 16, 32); depths: bottlenecks of the stages, 0 for
    no block.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        depths: Sequence[int] = (0, 2, 2, 1),
        *,
        norm: Norm = "batch",
        activation: str = "silu",
        in_channels: int = 3,
    ):
        super().__init__()
        if len(channels) != len(depths) + 1:
            raise ValueError(f"CSPDarknet: {len(channels)} channel counts for {len(depths)} stages; give one more")
        self.channels, self.strides = tuple(channels[-3:]), (8, 16, 32)
        self.stem = ConvNormAct(in_channels, channels[0], 3, 2, norm=norm, activation=activation)
        self.stages = nn.ModuleList(
            nn.Sequential(ConvNormAct(before, after, 3, 2, norm=norm, activation=activation))
            for before, after in pairwise(channels)
        )
        for stage, width, depth in zip(self.stages, channels[1:], depths):
            if depth:
                stage.append(CSPBlock(width, width, depth, norm=norm, activation=activation))
        self.stages[-1].append(PoolingPyramid(channels[-1], channels[-1], norm=norm, activation=activation))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels[-3:]
