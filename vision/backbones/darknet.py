"""The CSP backbone of the YOLO models (Darknet with cross-stage partial blocks, arXiv:1804.02767, arXiv:1911.11929)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from vision.backbones.base import Backbone, BackboneOptions
from vision.layers.conv import ConvNormAct
from vision.layers.csp import CSPBlock, PoolingPyramid
from vision.layers.drop import add_stochastic_depth
from vision.layers.norm import Norm

__all__ = ["CSP_SCALES", "CSPDarknet", "build_csp", "yolo_norm", "yolo_scale"]

# depth and width factors of the YOLO sizes
CSP_SCALES = {"csp_n": (1 / 3, 0.25), "csp_s": (1 / 3, 0.5), "csp_m": (2 / 3, 0.75), "csp_l": (1.0, 1.0)}

yolo_norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)


def yolo_scale(depth: float, width: float) -> tuple[list[int], list[int]]:
    """Channels of stem and stages, and bottlenecks of the stages, of a YOLO of these factors.

    No block at stride 4 in the small sizes: half of all activations would be there.
    """
    channels = [max(16, round(count * width / 16) * 16) for count in (64, 128, 256, 512, 1024)]
    return channels, [round(count * depth) for count in (1, 6, 6, 3)]


def build_csp(name: str, options: BackboneOptions) -> CSPDarknet:
    """The backbone of YOLO-n, s, m or l alone, on levels 1 to 5: weights of a detector can be carried over.

    ValueError for what it does not have, as other output strides than 32: it has no dilated form.
    """
    options.refuse(name, "output_stride", "dilation_rule", "zero_init_residual", "init")
    depth, width = CSP_SCALES[name]
    channels, depths = yolo_scale(depth, width * options.width)
    backbone = CSPDarknet(
        channels,
        depths,
        norm=yolo_norm if options.norm == "batch" else options.norm,
        activation=options.activation or "silu",
        in_channels=options.in_channels,
        levels=options.chosen_levels(range(1, 6)),
    )
    if options.drop_path:
        add_stochastic_depth(backbone, options.drop_path)
    return backbone


class CSPDarknet(Backbone):
    """Stem, four stages of a strided convolution and a CSP block, and pooling at the end -> `levels` of 1 to 5.

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
        levels: Sequence[int] = (3, 4, 5),
    ):
        super().__init__()
        if len(channels) != len(depths) + 1:
            raise ValueError(f"CSPDarknet: {len(channels)} channel counts for {len(depths)} stages; give one more")
        self.levels = tuple(levels)
        self.channels, self.strides = tuple(channels[i - 1] for i in levels), tuple(2**i for i in levels)
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
        features = [self.stem(x)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return [features[level - 1] for level in self.levels]
