"""Joint pyramid upsampling (FastFCN, arXiv:1903.11816): high-resolution features without a dilated backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vision.layers.context import SeparableConv
from vision.layers.conv import ConvNormAct
from vision.layers.norm import Norm
from vision.layers.resize import resize

__all__ = ["JointPyramidUpsampling"]


class JointPyramidUpsampling(nn.Module):
    """The last three levels (strides 8, 16, 32) joined at the finest of them (figure 4).

    Features finest first -> the same list with the last replaced by a map of 4 * `width` channels at the stride of the
    third from last: what a backbone dilated to stride 8 would have given, at a fraction of its time and memory.
    `out_channels` is that count.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int = 512,
        rates: Sequence[int] = (1, 2, 4, 8),
        *,
        norm: Norm = "batch",
    ):
        super().__init__()
        if len(channels) < 3:
            raise ValueError(
                f"JointPyramidUpsampling: {len(channels)} levels; it joins the last three of strides 8..32"
            )
        self.inputs = nn.ModuleList(ConvNormAct(count, width, 3, norm=norm) for count in channels[-3:])
        self.branches = nn.ModuleList(
            SeparableConv(3 * width, width, rate, norm=norm, norm_between=True) for rate in rates
        )
        self.out_channels = width * len(rates)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        size = features[-3].shape[-2:]
        joined = torch.cat([resize(conv(x), size) for conv, x in zip(self.inputs, features[-3:])], dim=1)
        return [*features[:-1], torch.cat([branch(joined) for branch in self.branches], dim=1)]
