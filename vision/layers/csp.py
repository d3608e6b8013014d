"""Cross-stage partial blocks and pyramid pooling of the YOLO family."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.layers.conv import ConvNormAct
from vision.layers.norm import Norm

__all__ = ["Bottleneck", "CSPBlock", "PoolingPyramid"]


class Bottleneck(nn.Module):
    """Two 3x3 convolutions with an optional shortcut: (B, C, H, W) -> the same shape."""

    def __init__(self, channels: int, *, shortcut: bool = True, norm: Norm = "batch", activation: str = "silu"):
        super().__init__()
        self.shortcut = shortcut
        self.first = ConvNormAct(channels, channels, norm=norm, activation=activation)
        self.second = ConvNormAct(channels, channels, norm=norm, activation=activation)
        self.drop_path: nn.Module | None = None  # see `add_stochastic_depth`

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        if self.drop_path is not None:
            y = self.drop_path(y)
        return x + y if self.shortcut else y


class CSPBlock(nn.Module):
    """Cross-stage partial block (CSPNet, arXiv:1911.11929): (B, in, H, W) -> (B, out, H, W).

    Two 1x1 convolutions halve the channels; one half passes `depth` bottlenecks, and a 1x1 convolution joins that
    half before and after each bottleneck (dense links, as in ELAN, arXiv:2211.04800) with the other one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        *,
        shortcut: bool = True,
        norm: Norm = "batch",
        activation: str = "silu",
    ):
        super().__init__()
        hidden = out_channels // 2
        self.bypass = ConvNormAct(in_channels, hidden, 1, norm=norm, activation=activation)
        self.entry = ConvNormAct(in_channels, hidden, 1, norm=norm, activation=activation)
        self.blocks = nn.ModuleList(
            Bottleneck(hidden, shortcut=shortcut, norm=norm, activation=activation) for _ in range(depth)
        )
        self.join = ConvNormAct(hidden * (2 + depth), out_channels, 1, norm=norm, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.bypass(x), self.entry(x)]
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.join(torch.cat(parts, dim=1))


class PoolingPyramid(nn.Module):
    """Spatial pyramid pooling by chained 5x5 max pools (windows 5, 9, 13): (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm = "batch", activation: str = "silu"):
        super().__init__()
        hidden = in_channels // 2
        self.entry = ConvNormAct(in_channels, hidden, 1, norm=norm, activation=activation)
        self.join = ConvNormAct(hidden * 4, out_channels, 1, norm=norm, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.entry(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, stride=1, padding=2))
        return self.join(torch.cat(parts, dim=1))
