"""Context of a feature map at several ranges: atrous and plain spatial pyramids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.layers.conv import ConvNormAct
from vision.layers.norm import Norm
from vision.layers.resize import resize

__all__ = [
    "ASPP", "AtrousConv", "ImagePooling", "PyramidPooling", "SeparableConv", "adaptive_average", "atrous_rates",
    "convolve_phases",
]  # fmt: skip


def atrous_rates(output_stride: int) -> tuple[int, int, int]:
    """The rates of ASPP's three 3x3 convolutions: 6, 12, 18 at output stride 16, inversely with the stride.

    DeepLab v3 (arXiv:1706.05587, section 3.3) doubles them at stride 8; at stride 32 they halve.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"atrous_rates: output stride {output_stride}; expected 8, 16 or 32")
    return tuple(rate * 16 // output_stride for rate in (6, 12, 18))


_PART = 256  # channels


class AtrousConv(nn.Conv2d):
    """A convolution of an odd kernel with dilation `rate` that keeps the size, without bias.

    On a map smaller than the reach of the outer rows (or columns) of a 3x3 kernel these meet nothing but padding; they
    are left out there, which gives the same result with a third or a ninth of the work. A depthwise convolution of a
    small rate is trained by phases on a CPU (see `convolve_phases`). In bfloat16 on a CPU many channels are summed up
    in parts: of 2048 channels oneDNN takes five times as long at once (torch 2.14 on AMX), with gradients three times.
    """

    def __init__(self, in_channels: int, out_channels: int, rate: int, *, kernel: int = 3, groups: int = 1):
        padding = kernel // 2 * rate
        super().__init__(in_channels, out_channels, kernel, padding=padding, dilation=rate, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rate = self.dilation[0]
        if self._trained_by_phases(x, rate):
            return convolve_phases(x, self.weight, self.bias, rate)
        weight = self.weight
        if self.kernel_size[0] == 3:
            rows = slice(1, 2) if rate >= x.shape[-2] else slice(None)
            columns = slice(1, 2) if rate >= x.shape[-1] else slice(None)
            weight = weight[:, :, rows, columns]
        padding = tuple(side // 2 * rate for side in weight.shape[-2:])
        if self._runs_in_parts(x, rate):
            parts = zip(x.split(_PART, 1), weight.split(_PART, 1))
            found = [F.conv2d(part, of_part, None, 1, padding, rate) for part, of_part in parts]
            total = torch.stack([part.float() for part in found]).sum(0)
            return (total if self.bias is None else total + self.bias.view(-1, 1, 1)).to(found[0].dtype)
        return F.conv2d(x, weight, self.bias, 1, padding, rate, self.groups)

    def _runs_in_parts(self, x: Tensor, rate: int) -> bool:
        reduced = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        return x.device.type == "cpu" and reduced and self.groups == 1 and rate > 2 and x.shape[1] > _PART

    def _trained_by_phases(self, x: Tensor, rate: int) -> bool:
        learns = self.training and torch.is_grad_enabled()
        return learns and x.device.type == "cpu" and self.groups == x.shape[1] and rate in (2, 4)


def convolve_phases(x: Tensor, weight: Tensor, bias: Tensor | None, rate: int) -> Tensor:
    """The depthwise convolution of x (B, C, H, W) with `weight` (C, 1, k, k) dilated by `rate`, of the same size.

    Every pixel meets those of its own phase alone, so that rate^2 smaller images are convolved without dilation: the
    same sums. oneDNN's gradient of a dilated depthwise convolution takes 30 times as long as the convolution on a CPU;
    this way the two together take a third of the time.
    """
    height, width = x.shape[-2:]
    x = F.pad(x, (0, -width % rate, 0, -height % rate))
    batch, channels, rows, columns = x.shape[0], x.shape[1], x.shape[2] // rate, x.shape[3] // rate
    phases = x.permute(0, 2, 3, 1).reshape(batch, rows, rate, columns, rate, channels).permute(0, 2, 4, 1, 3, 5)
    phases = phases.reshape(batch * rate**2, rows, columns, channels).permute(0, 3, 1, 2)  # channels_last
    found = F.conv2d(phases, weight, bias, padding=weight.shape[-1] // 2, groups=channels)
    found = found.permute(0, 2, 3, 1).reshape(batch, rate, rate, rows, columns, channels).permute(0, 3, 1, 4, 2, 5)
    found = found.reshape(batch, rows * rate, columns * rate, channels).permute(0, 3, 1, 2)
    return found[..., :height, :width]


class SeparableConv(nn.Sequential):
    """A depthwise 3x3 convolution with dilation `rate`, then a pointwise one, norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, rate: int = 1, *, norm: Norm = "batch"):
        super().__init__(
            AtrousConv(in_channels, in_channels, rate, groups=in_channels),
            ConvNormAct(in_channels, out_channels, 1, norm=norm),
        )


class ImagePooling(nn.Module):
    """The mean of each channel through a 1x1 convolution, spread over the map: (B, C, H, W) -> (B, out_channels, H, W).

    A batch of one image leaves batch norm a single value to normalise; its running statistics are used then, as in
    evaluation, where PyTorch's own would raise.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm = "batch"):
        super().__init__()
        self.project = ConvNormAct(in_channels, out_channels, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        norm = self.project[1]
        if self.training and x.shape[0] == 1 and isinstance(norm, nn.BatchNorm2d):
            mean = self.project[0](mean)
            mean = F.batch_norm(mean, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
            mean = F.relu(mean)
        else:
            mean = self.project(mean)
        return mean.expand(-1, -1, x.shape[-2], x.shape[-1])


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (DeepLab v3, arXiv:1706.05587): (B, C, H, W) -> (B, out_channels, H, W).

    A 1x1 convolution, one 3x3 convolution a rate (depthwise separable on request, as in v3+), the image mean; joined
    by a 1x1 convolution and dropout.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        dropout: float = 0.5,
        *,
        separable: bool = False,
        norm: Norm = "batch",
    ):
        super().__init__()
        branches: list[nn.Module] = [ConvNormAct(in_channels, out_channels, 1, norm=norm)]
        for rate in rates:
            if separable:
                branches.append(SeparableConv(in_channels, out_channels, rate, norm=norm))
            else:
                branch = ConvNormAct(in_channels, out_channels, 3, dilation=rate, norm=norm)
                branch[0] = AtrousConv(in_channels, out_channels, rate)
                branches.append(branch)
        branches.append(ImagePooling(in_channels, out_channels, norm=norm))
        self.branches = nn.ModuleList(branches)
        self.project = ConvNormAct(len(branches) * out_channels, out_channels, 1, norm=norm)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.project(torch.cat([branch(x) for branch in self.branches], dim=1)))


def adaptive_average(x: Tensor, bins: int) -> Tensor:
    """Means over a grid of `bins` x `bins` cells, (B, C, H, W) -> (B, C, bins, bins), as F.adaptive_avg_pool2d.

    Written as two matrix products, which every exporter can express for sizes that `bins` does not divide.
    """
    if bins == 1:
        return x.mean((2, 3), keepdim=True)
    rows = _cell_weights(x.shape[-2], bins, x)  # (bins, H)
    columns = _cell_weights(x.shape[-1], bins, x)  # (bins, W)
    return rows @ (x @ columns.T)


def _cell_weights(length: int, bins: int, like: Tensor) -> Tensor:
    """(bins, length): row i averages the positions floor(i L / bins) .. ceil((i + 1) L / bins) - 1."""
    position = torch.arange(length, device=like.device)
    cell = torch.arange(bins, device=like.device)[:, None]
    inside = (position >= cell * length // bins) & (position < -((-(cell + 1) * length) // bins))
    return (inside / inside.sum(1, keepdim=True)).to(like.dtype)


class PyramidPooling(nn.Module):
    """`x` joined with its means over 1, 2, 3 and 6 squared cells (PSPNet, arXiv:1612.01105, section 3.2).

    (B, C, H, W) -> (B, C + len(bins) * (C // len(bins)), H, W); each level is projected to C / len(bins) channels.
    `image_norm` is the norm of the level of one cell, `norm` that of the others.
    """

    def __init__(
        self,
        in_channels: int,
        bins: Sequence[int] = (1, 2, 3, 6),
        *,
        norm: Norm = "batch",
        image_norm: Norm = "batch",
        align_corners: bool = False,
    ):
        super().__init__()
        width = in_channels // len(bins)
        self.bins = tuple(bins)
        self.align_corners = align_corners
        self.levels = nn.ModuleList(
            ImagePooling(in_channels, width, norm=image_norm)
            if side == 1
            else ConvNormAct(in_channels, width, 1, norm=norm)
            for side in bins
        )
        self.out_channels = in_channels + width * len(bins)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        pooled = [
            level(x) if side == 1 else resize(level(adaptive_average(x, side)), size, align_corners=self.align_corners)
            for side, level in zip(self.bins, self.levels)
        ]
        return torch.cat([x, *pooled], dim=1)
