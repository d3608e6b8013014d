"""Heads that say something of every place of a feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from vision.layers.conv import ConvNormAct
from vision.layers.norm import Norm

__all__ = ["DecoupledHead", "PerLevelHead", "TowerHead", "flatten_levels", "prior_bias"]


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


class TowerHead(nn.Module):
    """Two towers of 3x3 convolutions, shared by all levels, and their predictors (RetinaNet, FCOS).

    List of levels (B, channels, H, W) -> logits (B, P, C), deltas (B, P, 4), quality (B, P) or None. `anchors` a
    place; `quality` adds FCOS's centre-ness beside the boxes. `bias`: of the towers' convolutions; None: where no norm
    follows. `first_delta`: what all deltas are before training.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        anchors: int = 1,
        depth: int = 4,
        quality: bool = False,
        norm: Norm = None,
        bias: bool | None = None,
        prior: float = 0.01,
        first_delta: float = 0.0,
    ):
        super().__init__()
        self.classes = classes

        def tower() -> nn.Sequential:
            return nn.Sequential(*(ConvNormAct(channels, channels, norm=norm, bias=bias) for _ in range(depth)))

        self.class_tower, self.box_tower = tower(), tower()
        self.class_logits = nn.Conv2d(channels, anchors * classes, 3, padding=1)
        self.box_deltas = nn.Conv2d(channels, anchors * 4, 3, padding=1)
        self.quality = nn.Conv2d(channels, anchors, 3, padding=1) if quality else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.class_logits.bias, prior_bias(prior))
        nn.init.constant_(self.box_deltas.bias, first_delta)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        located = [self.box_tower(level) for level in levels]
        logits = flatten_levels([self.class_logits(self.class_tower(level)) for level in levels], self.classes)
        deltas = flatten_levels([self.box_deltas(level) for level in located], 4)
        if self.quality is None:
            return logits, deltas, None
        return logits, deltas, flatten_levels([self.quality(level) for level in located], 1).squeeze(-1)


class PerLevelHead(nn.Module):
    """Predictors of each level's own, 3x3 convolutions or, `separable`, depthwise 3x3 and 1x1 (SSD, SSDlite).

    List of levels (B, channels[i], H, W) with anchors[i] a place -> logits (B, P, columns) and deltas (B, P, 4).
    """

    def __init__(
        self,
        channels: Sequence[int],
        anchors: Sequence[int],
        columns: int,
        *,
        separable: bool = False,
        norm: Norm = "batch",
    ):
        super().__init__()
        self.columns = columns

        def predictor(inputs: int, outputs: int) -> nn.Module:
            if not separable:
                return nn.Conv2d(inputs, outputs, 3, padding=1)
            spatial = ConvNormAct(inputs, inputs, groups=inputs, norm=norm, activation="relu6")
            return nn.Sequential(spatial, nn.Conv2d(inputs, outputs, 1))

        self.class_predictors = nn.ModuleList(predictor(c, a * columns) for c, a in zip(channels, anchors))
        self.box_predictors = nn.ModuleList(predictor(c, a * 4) for c, a in zip(channels, anchors))

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        logits = [predict(level) for predict, level in zip(self.class_predictors, levels)]
        deltas = [predict(level) for predict, level in zip(self.box_predictors, levels)]
        return flatten_levels(logits, self.columns), flatten_levels(deltas, 4)
