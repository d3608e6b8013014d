"""Context of a feature map at several ranges: atrous and plain spatial pyramids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.layers.conv import ConvNormAct
from vision.layers.norm import Norm, build_norm
from vision.layers.pooling import adaptive_average, image_mean
from vision.layers.resize import resize

__all__ = [
    "ASPP", "AtrousConv", "ImagePooling", "PyramidPooling", "SeparableConv", "atrous_rates", "convolve_phases",
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
    are left out there, which gives the same result with a third or a ninth of the work.

    On a CPU oneDNN is slow with dilation (torch 2.14 on AMX), so that the same sums are made in other ways: depthwise
    ones by phases where that is faster (see `convolve_phases`), their gradients in float32 where bfloat16's are slow,
    and many channels in bfloat16 in parts: 2048 at once take five times as long.
    """

    def __init__(self, in_channels: int, out_channels: int, rate: int, *, kernel: int = 3, groups: int = 1):
        padding = kernel // 2 * rate
        super().__init__(in_channels, out_channels, kernel, padding=padding, dilation=rate, groups=groups, bias=False)

    @property
    def wide(self) -> bool:
        """Whether it is padded more widely than oneDNN's fast depthwise kernels can be."""
        return self.padding[0] >= 8

    def forward(self, x: Tensor) -> Tensor:
        rate = self.dilation[0]
        if self.groups == x.shape[1] and x.device.type == "cpu" and rate > 1:
            return self._depthwise(x, rate)
        weight, padding = self._reaching(x, rate)
        if self._runs_in_parts(x, rate):
            x = x.contiguous(memory_format=torch.channels_last)  # torch 2.6 garbles gradients of other layouts
            parts = zip(x.split(_PART, 1), weight.split(_PART, 1))
            found = [F.conv2d(part, of_part, None, 1, padding, rate) for part, of_part in parts]
            total = found[0].float()
            for part in found[1:]:
                total = total + part
            return (total if self.bias is None else total + self.bias.view(-1, 1, 1)).to(found[0].dtype)
        return F.conv2d(x, weight, self.bias, 1, padding, rate, self.groups)

    def _reaching(self, x: Tensor, rate: int) -> tuple[Tensor, tuple[int, int]]:
        """The part of the weight that meets more than padding on x (B, C, H, W), and the padding for it."""
        weight = self.weight
        if self.kernel_size[0] == 3:
            rows = slice(1, 2) if rate >= x.shape[-2] else slice(None)
            columns = slice(1, 2) if rate >= x.shape[-1] else slice(None)
            weight = weight[:, :, rows, columns]
        return weight, tuple(side // 2 * rate for side in weight.shape[-2:])

    def _runs_in_parts(self, x: Tensor, rate: int) -> bool:
        reduced = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        return x.device.type == "cpu" and reduced and self.groups == 1 and rate > 2 and x.shape[1] > _PART

    def _depthwise(self, x: Tensor, rate: int) -> Tensor:
        """On a CPU, in the fastest way: with gradients by phases unless these are as small as the kernel."""
        kernel, learns = self.kernel_size[0], torch.is_grad_enabled()
        if learns:
            phased = -(-min(x.shape[-2:]) // rate) > kernel // 2 + 1
        else:
            phased = self.wide and not torch.compiler.is_compiling()  # nor exported

        def convolve(x: Tensor) -> Tensor:
            if phased:
                return convolve_phases(x, self.weight, self.bias, rate)
            weight, padding = self._reaching(x, rate)
            return F.conv2d(x, weight, self.bias, 1, padding, rate, self.groups)

        if not learns or not torch.is_autocast_enabled("cpu") or (phased and kernel == 3):
            return convolve(x)
        with torch.autocast("cpu", enabled=False):  # as in `GroupedConv2d`
            return convolve(x.float()).to(x.dtype)


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
    """A depthwise 3x3 convolution with dilation `rate`, then a pointwise one, norm and ReLU; `norm_between` the two
    convolutions too, as in FastFCN."""

    def __init__(
        self, in_channels: int, out_channels: int, rate: int = 1, *, norm: Norm = "batch", norm_between: bool = False
    ):
        super().__init__(
            AtrousConv(in_channels, in_channels, rate, groups=in_channels),
            *([build_norm(norm, in_channels)] if norm_between else []),
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
        mean = image_mean(x)
        norm = self.project[1]
        if self.training and x.shape[0] == 1 and isinstance(norm, nn.BatchNorm2d):
            mean = self.project[0](mean)
            mean = F.batch_norm(mean, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
            mean = F.relu(mean)
        else:
            mean = self.project(mean)
        spread = mean.expand(-1, -1, x.shape[-2], x.shape[-1])
        # laid out as `x`, for else the join of the two would be laid out anew
        like = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        return spread.contiguous(memory_format=like)


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
