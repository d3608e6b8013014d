"""ResNet (arXiv:1512.03385), ResNeXt (arXiv:1611.05431), Wide ResNet (arXiv:1605.07146) and ResNet-D (1812.01187).

As torchvision's: the stride of a bottleneck lies in its 3x3 convolution ("v1.5"). State-dict keys are torchvision's
without `fc`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from vision.backbones.base import Backbone, BackboneOptions, StagePlan, plan_stages
from vision.layers.activation import build_activation
from vision.layers.conv import ConvNormAct, GroupedConv2d
from vision.layers.fuse import FusedSum, fuse_sum
from vision.layers.init import initialise
from vision.layers.norm import build_norm

__all__ = ["RESNETS", "BasicBlock", "Bottleneck", "ResNet", "ResNetShape", "build_stage"]


@dataclass(frozen=True)
class ResNetShape:
    """Blocks a stage, bottleneck or basic blocks, groups and their width, and the "D" changes of stem and shortcut."""

    depths: tuple[int, int, int, int]
    bottleneck: bool = True
    groups: int = 1
    group_width: int = 64
    deep: bool = False

    @property
    def expansion(self) -> int:
        return 4 if self.bottleneck else 1


RESNETS = {
    "resnet18": ResNetShape((2, 2, 2, 2), bottleneck=False),
    "resnet34": ResNetShape((3, 4, 6, 3), bottleneck=False),
    "resnet50": ResNetShape((3, 4, 6, 3)),
    "resnet101": ResNetShape((3, 4, 23, 3)),
    "resnet152": ResNetShape((3, 8, 36, 3)),
    "resnet18d": ResNetShape((2, 2, 2, 2), bottleneck=False, deep=True),
    "resnet50d": ResNetShape((3, 4, 6, 3), deep=True),
    "resnet101d": ResNetShape((3, 4, 23, 3), deep=True),
    "resnext50_32x4d": ResNetShape((3, 4, 6, 3), groups=32, group_width=4),
    "resnext101_32x8d": ResNetShape((3, 4, 23, 3), groups=32, group_width=8),
    "resnext101_64x4d": ResNetShape((3, 4, 23, 3), groups=64, group_width=4),
    "wide_resnet50_2": ResNetShape((3, 4, 6, 3), group_width=128),
    "wide_resnet101_2": ResNetShape((3, 4, 23, 3), group_width=128),
}


class _ResidualBlock(nn.Module):
    """act(shortcut + branch); subclasses define the branch out of conv1, bn1, conv2, bn2, ..., whose last two are
    `conv` and `bn` of number `last`; `inner` is what comes before these."""

    last: int

    def __init__(self, downsample: nn.Module | None, activation: str, drop_path: float):
        super().__init__()
        self.downsample = downsample
        self.relu = build_activation(activation)
        self.drop_path = StochasticDepth(drop_path, "row") if drop_path else None

    def inner(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        conv, norm = getattr(self, f"conv{self.last}"), getattr(self, f"bn{self.last}")
        if isinstance(conv, FusedSum):
            return conv(self.inner(x), shortcut)
        branch = norm(conv(self.inner(x)))
        if self.drop_path is not None:
            branch = self.drop_path(branch)
        return self.relu(branch + shortcut)

    def fuse_sum(self) -> None:
        """For inference: `layers.fuse` calls it."""
        fuse_sum(self, f"conv{self.last}", f"bn{self.last}", self.relu)


class BasicBlock(_ResidualBlock):
    """Two 3x3 convolutions. Torchvision does not dilate this block; here the first takes `plan.entry`."""

    last = 2

    def __init__(
        self, in_channels: int, planes: int, plan: StagePlan, downsample: nn.Module | None, shape: ResNetShape,
        options: BackboneOptions, drop_path: float = 0.0,
    ):  # fmt: skip
        activation = options.activation or "relu"
        super().__init__(downsample, activation, drop_path)
        self.conv1 = nn.Conv2d(in_channels, planes, 3, plan.stride, plan.entry, plan.entry, bias=False)
        self.bn1 = build_norm(options.norm, planes)
        self.act1 = build_activation(activation)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, plan.dilation, plan.dilation, bias=False)
        self.bn2 = build_norm(options.norm, planes)

    def inner(self, x: Tensor) -> Tensor:
        return self.act1(self.bn1(self.conv1(x)))


class Bottleneck(_ResidualBlock):
    """1x1, 3x3 (grouped, strided, dilated), 1x1 to four times the planes."""

    last = 3

    def __init__(
        self, in_channels: int, planes: int, plan: StagePlan, downsample: nn.Module | None, shape: ResNetShape,
        options: BackboneOptions, drop_path: float = 0.0,
    ):  # fmt: skip
        activation = options.activation or "relu"
        super().__init__(downsample, activation, drop_path)
        width = int(planes * (shape.group_width / 64.0)) * shape.groups
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = build_norm(options.norm, width)
        self.act1 = build_activation(activation)
        conv = nn.Conv2d if shape.groups == 1 else GroupedConv2d
        self.conv2 = conv(width, width, 3, plan.stride, plan.entry, plan.entry, shape.groups, bias=False)
        self.bn2 = build_norm(options.norm, width)
        self.act2 = build_activation(activation)
        self.conv3 = nn.Conv2d(width, planes * shape.expansion, 1, bias=False)
        self.bn3 = build_norm(options.norm, planes * shape.expansion)

    def inner(self, x: Tensor) -> Tensor:
        return self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x))))))


def _shortcut(
    in_channels: int, out_channels: int, stride: int, deep: bool, options: BackboneOptions
) -> nn.Module | None:
    if stride == 1 and in_channels == out_channels:
        return None
    conv = nn.Conv2d(in_channels, out_channels, 1, 1 if deep else stride, bias=False)
    norm = build_norm(options.norm, out_channels)
    if not deep:
        return nn.Sequential(conv, norm)
    # a stage that does not stride has nothing to average, but keeps the place, so that keys do not depend on it
    pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
    return nn.Sequential(pool, conv, norm)


def build_stage(
    in_channels: int, planes: int, plan: StagePlan, shape: ResNetShape, options: BackboneOptions,
    drop_paths: Iterator[float] | None = None,
    depth: int = 3,
) -> nn.Sequential:  # fmt: skip
    """`depth` blocks: (B, in_channels, H, W) -> (B, planes * shape.expansion, H / stride, W / stride)."""
    block = Bottleneck if shape.bottleneck else BasicBlock
    out_channels = planes * shape.expansion
    later = StagePlan(1, plan.dilation, plan.dilation, plan.total)
    blocks: list[nn.Module] = []
    for i in range(depth):
        rate = next(drop_paths) if drop_paths is not None else 0.0
        shortcut = _shortcut(in_channels, out_channels, plan.stride, shape.deep, options) if i == 0 else None
        blocks.append(block(in_channels, planes, later if i else plan, shortcut, shape, options, rate))
        in_channels = out_channels
    return nn.Sequential(*blocks)


class ResNet(Backbone):
    """Levels 1 (the stem's convolution, stride 2) and 2..5 (layer1..layer4)."""

    def __init__(self, shape: ResNetShape, options: BackboneOptions):
        super().__init__()
        self.levels = options.chosen_levels(range(1, 6))
        planes = [int(64 * options.width) * 2**i for i in range(4)]
        self._build_stem(planes[0], shape, options)
        plans = plan_stages((1, 2, 2, 2), options, total=4)
        total_depth = sum(shape.depths)
        drop_paths = iter([options.drop_path * i / max(total_depth - 1, 1) for i in range(total_depth)])
        channels, strides, width = {1: planes[0]}, {1: 2}, planes[0]
        for i in range(max(self.levels) - 1):
            stage = build_stage(width, planes[i], plans[i], shape, options, drop_paths, shape.depths[i])
            self.add_module(f"layer{i + 1}", stage)
            width = planes[i] * shape.expansion
            channels[i + 2], strides[i + 2] = width, plans[i].total
        self.channels = tuple(channels[level] for level in self.levels)
        self.strides = tuple(strides[level] for level in self.levels)
        initialise(self, options.init)
        if options.zero_init_residual:
            self._zero_last_norms()

    def _build_stem(self, planes: int, shape: ResNetShape, options: BackboneOptions) -> None:
        activation = options.activation or "relu"
        if shape.deep:
            half = planes // 2
            first = ConvNormAct(options.in_channels, half, 3, 2, norm=options.norm, activation=activation, bias=False)
            second = ConvNormAct(half, half, 3, norm=options.norm, activation=activation, bias=False)
            self.conv1 = nn.Sequential(*first, *second, nn.Conv2d(half, planes, 3, 1, 1, bias=False))
        else:
            self.conv1 = nn.Conv2d(options.in_channels, planes, 7, 2, 3, bias=False)
        self.bn1 = build_norm(options.norm, planes)
        self.relu = build_activation(activation)
        self.maxpool = nn.MaxPool2d(3, 2, 1)

    def _zero_last_norms(self) -> None:
        for block in self.modules():
            if isinstance(block, _ResidualBlock):
                last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
                if getattr(last, "weight", None) is not None:
                    nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.relu(self.bn1(self.conv1(x)))
        features = [x] if 1 in self.levels else []
        x = self.maxpool(x) if max(self.levels) > 1 else x
        for level in range(2, max(self.levels) + 1):
            x = getattr(self, f"layer{level - 1}")(x)
            if level in self.levels:
                features.append(x)
        return features
