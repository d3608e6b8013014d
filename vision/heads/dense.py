"""Heads that say something of every place of a feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from vision.layers.conv import ConvNormAct
from vision.layers.norm import Norm

__all__ = ["DecoupledHead", "flatten_levels", "prior_bias"]


def prior_bias(prior: float) -> float:
    """The logit of probability `prior`: the initial bias of class scores (RetinaNet, arXiv:1708.02002, section 3.3)."""
    return -math.log((1 - prior) / prior)


def flatten_levels(levels: Sequence[Tensor], values: int) -> Tensor:
    """Maps (B, A * values, H, W) of a pyramid -> (B, P, values): levels, rows, columns, the A anchors of a cell."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, values) for level in levels], dim=1)


class DecoupledHead(nn.Module):
    """Separate class and box branches on each level, `depth` 3x3 convolutions each (YOLOX, arXiv:2107.08430, 2.1).

    List of levels (B, channels[i], H, W) -> logits (B, P, C) and deltas (B, P, outputs), finest level first.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        outputs: int,
        *,
        class_width: int,
        box_width: int,
        depth: int = 2,
        prior: float = 0.01,
        norm: Norm = "batch",
        activation: str = "silu",
    ):
        super().__init__()
        self.classes, self.outputs = classes, outputs

        def branch(inputs: int, width: int, result: int) -> nn.Sequential:
            widths = [inputs] + [width] * depth
            blocks = (ConvNormAct(a, b, norm=norm, activation=activation) for a, b in pairwise(widths))
            return nn.Sequential(*blocks, nn.Conv2d(width, result, 1))

        self.class_branches = nn.ModuleList(branch(inputs, class_width, classes) for inputs in channels)
        self.box_branches = nn.ModuleList(branch(inputs, box_width, outputs) for inputs in channels)
        for classify, locate in zip(self.class_branches, self.box_branches):
            nn.init.normal_(classify[-1].weight, std=0.01)
            nn.init.constant_(classify[-1].bias, prior_bias(prior))
            nn.init.normal_(locate[-1].weight, std=0.01)
            nn.init.zeros_(locate[-1].bias)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        logits = [branch(level) for branch, level in zip(self.class_branches, levels)]
        deltas = [branch(level) for branch, level in zip(self.box_branches, levels)]
        return flatten_levels(logits, self.classes), flatten_levels(deltas, self.outputs)
