"""MobileNet V1 (arXiv:1704.04861), V2 (arXiv:1801.04381) and V3 small and large (arXiv:1905.02244).

One network class runs the three tables. State-dict keys are torchvision's MobileNetV3 ones without the classifier;
`pretrained.torchvision_backbones` renames V2's. Dilation: V1 and V2 keep the previous rate in the depthwise convolution
that would have strided (torchvision dilates neither); V3 dilates that one too, because torchvision's
`mobilenet_v3_*(dilated=True)` does. `dilation_rule="uniform"` does so in all three.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from vision.backbones.base import Backbone, BackboneOptions, plan_stages
from vision.layers.attention import SqueezeExcitation
from vision.layers.context import AtrousConv
from vision.layers.conv import ConvNormAct, scaled_channels
from vision.layers.fuse import FusedSum, fuse_sum
from vision.layers.init import initialise
from vision.layers.norm import Norm

__all__ = ["MOBILENETS", "Inverted", "MobileNet", "MobileNetShape"]


@dataclass(frozen=True)
class Inverted:
    """One row of a table: kernel, expanded and output channels, squeeze-excitation, activation, stride.

    `expanded` None: a depthwise separable block of V1, whose output is activated and which has no shortcut."""

    kernel: int
    expanded: int | None
    channels: int
    excite: bool = False
    activation: str = "relu6"
    stride: int = 1


@dataclass(frozen=True)
class MobileNetShape:
    """Stem channels and the blocks; `last` is the 1x1 convolution at the end (None: none), `activation` of both."""

    stem: int
    blocks: tuple[Inverted, ...]
    last: int | None
    activation: str
    version: int


def _version1() -> MobileNetShape:
    table = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    blocks = tuple(Inverted(3, None, channels, False, "relu", stride) for channels, stride in table)
    return MobileNetShape(32, blocks, None, "relu", 1)


def _version2() -> MobileNetShape:
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    blocks, previous = [], 32
    for expansion, channels, repeats, stride in table:
        for i in range(repeats):
            blocks.append(Inverted(3, previous * expansion, channels, False, "relu6", stride if i == 0 else 1))
            previous = channels
    return MobileNetShape(32, tuple(blocks), 1280, "relu6", 2)


def _version3(*rows: tuple[int, int, int, bool, str, int]) -> MobileNetShape:
    names = {"RE": "relu", "HS": "hswish"}
    blocks = tuple(Inverted(k, e, c, se, names[activation], s) for k, e, c, se, activation, s in rows)
    return MobileNetShape(16, blocks, 6 * blocks[-1].channels, "hswish", 3)


MOBILENETS = {
    "mobilenet_v1": _version1(),
    "mobilenet_v2": _version2(),
    "mobilenet_v3_large": _version3(
        (3, 16, 16, False, "RE", 1), (3, 64, 24, False, "RE", 2), (3, 72, 24, False, "RE", 1),
        (5, 72, 40, True, "RE", 2), (5, 120, 40, True, "RE", 1), (5, 120, 40, True, "RE", 1),
        (3, 240, 80, False, "HS", 2), (3, 200, 80, False, "HS", 1), (3, 184, 80, False, "HS", 1),
        (3, 184, 80, False, "HS", 1), (3, 480, 112, True, "HS", 1), (3, 672, 112, True, "HS", 1),
        (5, 672, 160, True, "HS", 2), (5, 960, 160, True, "HS", 1), (5, 960, 160, True, "HS", 1),
    ),
    "mobilenet_v3_small": _version3(
        (3, 16, 16, True, "RE", 2), (3, 72, 24, False, "RE", 2), (3, 88, 24, False, "RE", 1),
        (5, 96, 40, True, "HS", 2), (5, 240, 40, True, "HS", 1), (5, 240, 40, True, "HS", 1),
        (5, 120, 48, True, "HS", 1), (5, 144, 48, True, "HS", 1), (5, 288, 96, True, "HS", 2),
        (5, 576, 96, True, "HS", 1), (5, 576, 96, True, "HS", 1),
    ),
}  # fmt: skip


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise, squeeze-excitation, project (1x1); plus the input where shapes allow."""

    def __init__(self, in_channels: int, row: Inverted, dilation: int, norm: Norm, drop_path: float = 0.0):
        super().__init__()
        separable = row.expanded is None
        expanded = in_channels if separable else row.expanded
        conv = partial(ConvNormAct, norm=norm, activation=row.activation, bias=False)
        self.expands = expanded != in_channels
        layers: list[nn.Module] = [conv(in_channels, expanded, 1)] if self.expands else []
        depthwise = conv(expanded, expanded, row.kernel, row.stride, dilation=dilation, groups=expanded)
        if dilation > 1 and row.stride == 1:
            depthwise[0] = AtrousConv(expanded, expanded, dilation, kernel=row.kernel, groups=expanded)
        layers.append(depthwise)
        if row.excite:
            layers.append(SqueezeExcitation(expanded, scaled_channels(expanded // 4), hard=True))
        layers.append(conv(expanded, row.channels, 1, activation=row.activation if separable else None))
        self.block = nn.Sequential(*layers)
        self.shortcut = not separable and row.stride == 1 and in_channels == row.channels
        self.drop_path = StochasticDepth(drop_path, "row") if drop_path and self.shortcut else None

    def expand(self, x: Tensor) -> Tensor:
        """The input after the 1x1 expansion alone: what SSDlite's first head sees."""
        return self.block[0](x) if self.expands else x

    def project(self, expanded: Tensor, x: Tensor) -> Tensor:
        """The block's output from its expanded input and its input."""
        for layer in self.block[1:-1] if self.expands else self.block[:-1]:
            expanded = layer(expanded)
        last = self.block[-1]
        if isinstance(last[0], FusedSum):
            return last[0](expanded, x)
        expanded = last(expanded)
        if self.drop_path is not None:
            expanded = self.drop_path(expanded)
        return x + expanded if self.shortcut else expanded

    def fuse_sum(self) -> None:
        """For inference: `layers.fuse` calls it."""
        if self.shortcut:
            fuse_sum(self.block[-1], "0", "1", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.expand(x), x)


class MobileNet(Backbone):
    """Levels 1..5: the last block before each stride; level 5 ends with the 1x1 convolution `last`, as in torchvision.

    `taps` replaces the levels by positions in `features`, for networks that hook elsewhere: an index, or "13.expand"
    for the expanded input of block 13. Then `levels` is empty.
    """

    def __init__(self, shape: MobileNetShape, options: BackboneOptions, taps: tuple[int | str, ...] | None = None):
        super().__init__()
        if options.norm == "batch" and shape.version == 3:
            options = replace(options, norm=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01))
        rule = "uniform" if shape.version == 3 else options.dilation_rule
        plans = plan_stages([row.stride for row in shape.blocks], replace(options, dilation_rule=rule), total=2)
        outputs = self._build_features(shape, options, plans)
        # the level of each feature counts its strides as if nothing were dilated
        ends: dict[int, int] = {}
        level = 1
        for index, row in enumerate(shape.blocks, start=1):
            level += row.stride == 2
            ends[level] = index
        ends[5] = len(outputs) - 1
        if 1 not in ends:
            ends[1] = 0  # V3-small strides at once
        if taps:
            self._check_taps(taps)
        self.levels = () if taps else options.chosen_levels(range(1, 6))
        self.taps = tuple(taps) if taps else tuple(ends[level] for level in self.levels)
        self._cut(outputs)
        initialise(self, options.init)
        if options.zero_init_residual:
            for block in self.features:
                if getattr(block, "shortcut", False) and options.norm is not None and options.norm != "none":
                    nn.init.zeros_(block.block[-1][1].weight)

    def _build_features(self, shape: MobileNetShape, options: BackboneOptions, plans: list) -> list[tuple[int, int]]:
        """Fills `features`; returns the channels and stride of each."""
        scaled = lambda channels: scaled_channels(channels * options.width)  # noqa: E731
        conv = partial(ConvNormAct, norm=options.norm, activation=options.activation or shape.activation, bias=False)
        previous = scaled(shape.stem)
        self.features = nn.Sequential(conv(options.in_channels, previous, 3, 2))
        outputs = [(previous, 2)]
        for i, (row, plan) in enumerate(zip(shape.blocks, plans)):
            expanded = self._expanded(row, previous, shape, i, scaled)
            row = replace(row, expanded=expanded, channels=scaled(row.channels), stride=plan.stride)
            row = replace(row, activation=options.activation or row.activation)
            rate = options.drop_path * i / max(len(plans) - 1, 1)
            self.features.append(InvertedResidual(previous, row, plan.entry, options.norm, rate))
            previous = row.channels
            outputs.append((previous, plan.total))
        if shape.last is not None:
            last = 6 * previous if shape.version == 3 else scaled_channels(shape.last * max(1.0, options.width))
            self.features.append(conv(previous, last, 1))
            outputs.append((last, outputs[-1][1]))
        return outputs

    @staticmethod
    def _expanded(row: Inverted, previous: int, shape: MobileNetShape, index: int, scaled) -> int | None:
        if row.expanded is None:
            return None
        if shape.version == 3:
            return scaled(row.expanded)
        # V2 multiplies the rounded input channels
        unscaled = shape.blocks[index - 1].channels if index else shape.stem
        return previous * (row.expanded // unscaled)

    def _check_taps(self, taps: tuple[int | str, ...]) -> None:
        """ValueError unless `taps` are positions in the order of the features, ".expand" of blocks that expand."""
        known = list(range(len(self.features)))
        known += [f"{i}.expand" for i in known if getattr(self.features[i], "expands", False)]
        places = [int(str(tap).removesuffix(".expand")) for tap in taps if tap in known]
        if len(places) < len(taps) or places != sorted(set(places)):
            raise ValueError(
                f"backbone: taps {tuple(taps)}; choose rising places from 0 to {len(self.features) - 1}, or "
                '"13.expand" for what block 13 expands'
            )

    def _cut(self, outputs: list[tuple[int, int]]) -> None:
        """Sets channels and strides of the taps and drops the features that no tap needs."""
        channels, strides = [], []
        for tap in self.taps:
            index = int(str(tap).removesuffix(".expand"))
            if str(tap).endswith(".expand"):
                channels.append(self.features[index].block[0].out_channels)
                strides.append(outputs[index - 1][1])
            else:
                channels.append(outputs[index][0])
                strides.append(outputs[index][1])
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.features = self.features[: int(str(self.taps[-1]).removesuffix(".expand")) + 1]

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for index, layer in enumerate(self.features):
            if f"{index}.expand" in self.taps:
                expanded = layer.expand(x)
                outputs.append(expanded)
                x = layer.project(expanded, x)
            else:
                x = layer(x)
            if index in self.taps:
                outputs.append(x)
        return outputs
