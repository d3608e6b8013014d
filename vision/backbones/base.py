"""The contract of backbones, the options that all of them take, and the arithmetic of dilated stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vision.layers.norm import Norm

__all__ = ["Backbone", "BackboneOptions", "StagePlan", "plan_stages"]


class Backbone(nn.Module):
    """A network that turns images (B, in_channels, H, W) into a list of feature maps, finest first.

    `channels` and `strides` say, for each map returned, its channel count and how many input pixels one step spans.
    A map of stride s is ceil(H / s) x ceil(W / s). `levels` are the numbers of the maps: level i has stride 2**i, or
    less where `output_stride` holds it back. Stages beyond the deepest level asked for are not built. The sides of the
    input must be multiples of `divisor`.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    levels: tuple[int, ...]
    divisor: int = 1

    def forward(self, x: Tensor) -> list[Tensor]:
        raise NotImplementedError


@dataclass(frozen=True)
class BackboneOptions:
    """What every backbone can be asked for.

    levels: numbers of the feature maps to return, finest first; None: all. output_stride: 8, 16 or 32. norm: as
    `layers.norm.build_norm`. activation: None is the network's own. width: multiplies all channel counts.
    dilation_rule: "torchvision" (the first block of a stage that dilates instead of striding keeps the previous rate,
    so that every second place equals the strided network) or "uniform" (all blocks of the stage alike, as
    segmentation_models.pytorch does). drop_path: rate of stochastic depth of the last block, growing linearly from 0
    (arXiv:1603.09382). zero_init_residual: the last norm of each residual branch starts at 0 (arXiv:1706.02677).
    init: a scheme of `layers.init`.
    """

    levels: tuple[int, ...] | None = None
    output_stride: int = 32
    norm: Norm = "batch"
    activation: str | None = None
    in_channels: int = 3
    width: float = 1.0
    dilation_rule: str = "torchvision"
    drop_path: float = 0.0
    zero_init_residual: bool = False
    init: str = "kaiming_normal"

    def __post_init__(self) -> None:
        if self.output_stride not in (8, 16, 32):
            raise ValueError(f"backbone: output_stride {self.output_stride}; choose 8, 16 or 32")
        if self.dilation_rule not in ("torchvision", "uniform"):
            raise ValueError(f"backbone: dilation_rule {self.dilation_rule!r}; choose 'torchvision' or 'uniform'")
        if self.width <= 0 or self.in_channels < 1:
            raise ValueError(f"backbone: width {self.width}, in_channels {self.in_channels}; both must be positive")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"backbone: drop_path {self.drop_path}; expected 0 <= drop_path < 1")

    def refuse(self, name: str, *fields: str) -> None:
        """ValueError if one of `fields`, with which the network `name` can do nothing, is not as it is by default."""
        for field in fields:
            value = getattr(self, field)
            if value != getattr(BackboneOptions, field):
                raise ValueError(f"backbone {name!r} has no choice of {field}, {value!r} was asked for; leave it out")

    def chosen_levels(self, known: Sequence[int], default: Sequence[int] | None = None) -> tuple[int, ...]:
        """The levels to return: those asked for, else `default`, else all `known`. ValueError when one is not known."""
        levels = tuple(self.levels if self.levels is not None else default or known)
        if not levels or not set(levels) <= set(known) or list(levels) != sorted(set(levels)):
            raise ValueError(f"backbone: levels {levels}; choose rising numbers among {tuple(known)}")
        return levels


@dataclass(frozen=True)
class StagePlan:
    """How one stage runs: the stride of its first block, the dilation of the convolution that would stride
    (`entry`) and of all that come after it (`dilation`), and the stride of its output against the image."""

    stride: int
    entry: int
    dilation: int
    total: int


def plan_stages(strides: Sequence[int], options: BackboneOptions, total: int = 1) -> list[StagePlan]:
    """A plan for each stage of a network whose stages have `strides` and whose input has stride `total`.

    A stage that would exceed `output_stride` does not stride and multiplies the dilation by its stride instead.
    """
    plans, dilation = [], 1
    for stride in strides:
        entry = dilation
        if total * stride > options.output_stride:
            dilation, stride = dilation * stride, 1
            entry = dilation if options.dilation_rule == "uniform" else entry
        total *= stride
        plans.append(StagePlan(stride, entry, dilation, total))
    return plans
