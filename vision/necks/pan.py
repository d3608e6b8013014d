"""Path aggregation (PANet, arXiv:1803.01534, with the CSP blocks of YOLOv4): coarse to fine, then back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.layers.conv import ConvNormAct
from vision.layers.csp import CSPBlock
from vision.layers.norm import Norm

__all__ = ["PathAggregation"]


class PathAggregation(nn.Module):
    """List of levels, finest first, each half the size of the one before -> list of the same sizes and channels."""

    def __init__(self, channels: Sequence[int], depth: int = 1, *, norm: Norm = "batch", activation: str = "silu"):
        super().__init__()
        self.channels = tuple(channels)
        pairs = list(zip(channels, channels[1:]))
        options = {"norm": norm, "activation": activation}
        self.up = nn.ModuleList(
            CSPBlock(fine + coarse, fine, depth, shortcut=False, **options) for fine, coarse in pairs
        )
        self.shrink = nn.ModuleList(ConvNormAct(fine, fine, 3, 2, **options) for fine, _ in pairs)
        self.down = nn.ModuleList(
            CSPBlock(fine + coarse, coarse, depth, shortcut=False, **options) for fine, coarse in pairs
        )

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        if len(levels) != len(self.channels):
            raise ValueError(f"PathAggregation: {len(levels)} levels; built for {len(self.channels)}")
        fused = [levels[-1]]
        for level, block in zip(reversed(levels[:-1]), reversed(self.up)):
            coarse = F.interpolate(fused[0], size=level.shape[-2:], mode="nearest")
            fused.insert(0, block(torch.cat([level, coarse], dim=1)))
        for i, (shrink, block) in enumerate(zip(self.shrink, self.down)):
            fused[i + 1] = block(torch.cat([shrink(fused[i]), fused[i + 1]], dim=1))
        return fused
