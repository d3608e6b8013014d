"""VGG (arXiv:1409.1556), the backbone of SSD. State-dict keys are torchvision's `features.*`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vision.backbones.base import Backbone, BackboneOptions, plan_stages
from vision.layers.activation import build_activation
from vision.layers.init import initialise
from vision.layers.norm import build_norm

__all__ = ["VGG", "VGGS", "VGGShape"]


@dataclass(frozen=True)
class VGGShape:
    """Convolutions in each of the five stages, and whether norms stand between them and their activations."""

    depths: tuple[int, int, int, int, int]
    normed: bool = False


VGGS = {"vgg16": VGGShape((2, 2, 3, 3, 3)), "vgg16_bn": VGGShape((2, 2, 3, 3, 3), normed=True)}


class VGG(Backbone):
    """Levels 0..4 are the stages before their pooling (stride 1..16), level 5 is behind the last pooling (32).

    All but level 0 are returned unless asked for. With an output_stride of 8 or 16 the poolings that would exceed it
    do not stride, but take 3x3 pixels, and every convolution after them is dilated (DeepLab, arXiv:1412.7062,
    section 3.1). Odd maps lose their last row and column in pooling, as torchvision's.
    """

    divisor = 32

    def __init__(self, shape: VGGShape, options: BackboneOptions):
        super().__init__()
        self.levels = options.chosen_levels(range(6), default=range(1, 6))
        layers: list[nn.Module] = []
        previous, ends, channels = options.in_channels, [], []
        plans = plan_stages([1, 2, 2, 2, 2, 2], options)  # of each stage, behind the pooling before it; and of the last
        for stage, depth in enumerate(shape.depths):
            dilation, after = plans[stage].dilation, plans[stage + 1]
            width = min(int(64 * options.width) * 2**stage, int(512 * options.width))
            for _ in range(depth):
                layers.append(nn.Conv2d(previous, width, 3, 1, dilation, dilation))
                layers += [build_norm(options.norm, width)] if shape.normed else []
                layers.append(build_activation(options.activation or "relu"))
                previous = width
            ends.append(len(layers) - 1)
            channels.append(width)
            layers.append(nn.MaxPool2d(2, 2) if after.stride == 2 else nn.MaxPool2d(3, 1, padding=1))
        ends.append(len(layers) - 1)
        channels.append(previous)
        self._ends = tuple(ends[level] for level in self.levels)
        self.channels = tuple(channels[level] for level in self.levels)
        self.strides = tuple(plans[level].total for level in self.levels)
        self.features = nn.Sequential(*layers[: self._ends[-1] + 1])
        initialise(self, options.init)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self._ends:
                outputs.append(x)
        return outputs
