"""Convolutions whose weight gradient is computed on planes: for training in float32 on CPUs without AVX-512."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["PlanarConv2d", "gains_by_planes", "use_planar_gradients"]

_LEAST_CHANNELS = 32
_LEAST_VALUES = 300_000  # of an image in the input: about what a core's cache holds


def gains_by_planes(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN is slow with weight gradients in channels_last: in float32 where the CPU has AVX2 and no more."""
    return device.type == "cpu" and dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX2"


def use_planar_gradients(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Makes every plain dense convolution of `model` with a kernel above 1x1 a `PlanarConv2d`, in place, where training
    on `device` in `dtype` gains by it: its parameters, their names and what it computes stay."""
    if not gains_by_planes(device, dtype):
        return
    for module in model.modules():
        plain = type(module) is nn.Conv2d and module.groups == 1 and max(module.kernel_size) > 1
        if plain and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = PlanarConv2d


class PlanarConv2d(nn.Conv2d):
    """`nn.Conv2d` that lays large inputs out as planes (B, C, H, W) for the gradient of its weights.

    In channels_last that gradient takes 1.3 to 4 times as long there with 3x3 kernels on maps that are larger than the
    cache (torch 2.14); everything else, and smaller maps, are as fast or faster in channels_last.
    """

    def forward(self, x: Tensor) -> Tensor:
        large = x.ndim == 4 and x.shape[1] >= _LEAST_CHANNELS and x.shape[1:].numel() >= _LEAST_VALUES
        learns = torch.is_grad_enabled() and self.weight.requires_grad and not torch.compiler.is_compiling()
        if not (large and learns and len(x)) or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        return _Convolution.apply(x, self.weight, self.bias, self.stride, self.padding, self.dilation)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        rest = ([weight.shape[0]], *(list(pair) for pair in ctx.geometry), False, [0, 0], 1)
        backward = torch.ops.aten.convolution_backward
        found = backward(slope, x, weight, *rest, [True, False, False])[0] if of_x else None
        planes = (one.contiguous() for one in (slope, x, weight))
        _, *of_parameters = backward(*planes, *rest, [False, of_weight, of_bias])
        return found, *of_parameters, None, None, None
