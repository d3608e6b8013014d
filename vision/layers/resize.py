"""Resizing of feature maps and of score maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["double", "resize", "resize_logits"]


def resize(x: Tensor, size: Sequence[int], mode: str = "bilinear", *, align_corners: bool = False) -> Tensor:
    """`x` (B, C, H, W) at height and width `size`; itself when it already has that size.

    `mode` is "bilinear" or "nearest". With `align_corners` False pixels are areas, so a factor of 2 shifts nothing.
    """
    height, width = size[-2], size[-1]
    if x.shape[-2] == height and x.shape[-1] == width:
        return x
    if mode == "nearest":
        if height == 2 * x.shape[-2] and width == 2 * x.shape[-1]:
            return double(x)
        return F.interpolate(x, size=(height, width), mode="nearest")
    return F.interpolate(x, size=(height, width), mode=mode, align_corners=align_corners)


def resize_logits(logits: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Logits (B, C, h, w) at height and width `size`, in float32, a class after the other in memory.

    Softmax and the losses over classes take two thirds of the time of channels_last logits.
    """
    logits = logits.float().contiguous()
    factor = size[-2] // logits.shape[-2]
    exact = (logits.shape[-2] * factor, logits.shape[-1] * factor) == (size[-2], size[-1])
    plain = align_corners or torch.is_grad_enabled() or logits.device.type != "cpu" or torch.compiler.is_compiling()
    if plain or not exact or factor % 2 or logits.shape[-2] == 1:
        return resize(logits, size, align_corners=align_corners)
    return _enlarge(logits, factor)


def _enlarge(x: Tensor, factor: int) -> Tensor:
    """`x` (B, C, H, W) by an even factor, bilinear with pixels as areas; half the time of F.interpolate on a CPU.

    First the width, where little memory is touched; then all rows between two of `x` are blends of these.
    """
    batch, channels, height, width = x.shape
    wide = F.interpolate(x, size=(height, width * factor), mode="bilinear", align_corners=False)
    result = x.new_empty(batch, channels, height * factor, width * factor)
    border = factor // 2  # rows before the centre of the first row of `x`, and behind that of the last
    result[:, :, :border], result[:, :, -border:] = wide[:, :, :1], wide[:, :, -1:]
    between = result[:, :, border:-border].view(batch, channels, height - 1, factor, -1)
    share = ((torch.arange(factor, device=x.device) + 0.5) / factor)[:, None]
    torch.lerp(wide[:, :, :-1, None], wide[:, :, 1:, None], share, out=between)
    return result


def double(x: Tensor) -> Tensor:
    """(B, C, 2H, 2W): every pixel of `x` (B, C, H, W) four times, as "nearest" would.

    One copy of channels_last memory, and a sum as its gradient: half the time of F.interpolate on a CPU.
    """
    rows = x.permute(0, 2, 3, 1)  # (B, H, W, C)
    batch, height, width, channels = rows.shape
    rows = rows[:, :, None, :, None].expand(batch, height, 2, width, 2, channels)
    return rows.reshape(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
