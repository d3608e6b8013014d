"""Path aggregation (PANet, arXiv:1803.01534, with the CSP blocks of YOLOv4): coarse to fine, then back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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
        pairs = list(pairwise(channels))
        options = {"norm": norm, "activation": activation}
        self.lateral = nn.ModuleList(ConvNormAct(coarse, fine, 1, **options) for fine, coarse in pairs)
        self.up = nn.ModuleList(CSPBlock(2 * fine, fine, depth, shortcut=False, **options) for fine, _ in pairs)
        self.shrink = nn.ModuleList(ConvNormAct(fine, fine, 3, 2, **options) for fine, _ in pairs)
        self.down = nn.ModuleList(
            CSPBlock(2 * fine, coarse, depth, shortcut=False, **options) for fine, coarse in pairs
        )

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        if len(levels) != len(self.channels):
            raise ValueError(f"PathAggregation: {len(levels)} levels; built for {len(self.channels)}")
        finest, thin = levels[-1], []  # thin: the coarser side of each pair with the finer side's channels
        for i in reversed(range(len(self.up))):
            thin.insert(0, self.lateral[i](finest))
            coarse = F.interpolate(thin[0], size=levels[i].shape[-2:], mode="nearest")
            finest = self.up[i](torch.cat([levels[i], coarse], dim=1))
        fused = [finest]
        for shrink, block, coarse in zip(self.shrink, self.down, thin):
            fused.append(block(torch.cat([shrink(fused[-1]), coarse], dim=1)))
        return fused
