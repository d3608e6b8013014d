"""Feature pyramid network (arXiv:1612.03144)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vision.layers.conv import ConvNormAct, run_on_small_map
from vision.layers.norm import Norm

__all__ = ["FeaturePyramid"]


class FeaturePyramid(nn.Module):
    """Backbone maps, finest first -> as many maps of `out_channels`, and the extra coarser ones.

    extra: "pool" appends every second place of the last map (Faster R-CNN); "p6p7" two strided convolutions on the
    last output map (RetinaNet v2, FCOS), "p6p7_c5" the same on the last input map (RetinaNet); None nothing. Input
    sizes need not be multiples of one another. `channels` lists the outputs' channels. State-dict keys: inner_blocks,
    layer_blocks, extra_blocks.p6 / p7, as torchvision's.
    """

    def __init__(
        self, channels: Sequence[int], out_channels: int = 256, extra: str | None = None, norm: Norm = None
    ):  # fmt: skip
        super().__init__()
        if extra not in (None, "pool", "p6p7", "p6p7_c5"):
            raise ValueError(f"FeaturePyramid: extra {extra!r}; choose 'pool', 'p6p7', 'p6p7_c5' or None")
        self.extra = extra
        self.inner_blocks = nn.ModuleList(
            ConvNormAct(width, out_channels, 1, norm=norm, activation=None) for width in channels
        )
        self.layer_blocks = nn.ModuleList(
            ConvNormAct(out_channels, out_channels, 3, norm=norm, activation=None) for _ in channels
        )
        if extra in ("p6p7", "p6p7_c5"):
            width = out_channels if extra == "p6p7" else channels[-1]
            self.extra_blocks = nn.ModuleDict(
                {
                    "p6": nn.Conv2d(width, out_channels, 3, 2, 1),
                    "p7": nn.Conv2d(out_channels, out_channels, 3, 2, 1),
                }
            )
        self.channels = (out_channels,) * (len(channels) + {None: 0, "pool": 1}.get(extra, 2))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        top_down = self.inner_blocks[-1](features[-1])
        outputs = [self.layer_blocks[-1](top_down)]
        for level in range(len(features) - 2, -1, -1):
            lateral = self.inner_blocks[level](features[level])
            top_down = lateral + F.interpolate(top_down, size=lateral.shape[-2:], mode="nearest")
            outputs.insert(0, self.layer_blocks[level](top_down))
        if self.extra == "pool":
            outputs.append(F.max_pool2d(outputs[-1], kernel_size=1, stride=2))
        elif self.extra is not None:
            p6 = run_on_small_map(self.extra_blocks["p6"], outputs[-1] if self.extra == "p6p7" else features[-1])
            outputs += [p6, run_on_small_map(self.extra_blocks["p7"], F.relu(p6))]
        return outputs
