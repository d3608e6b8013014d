"""Means of feature maps over the image and over its cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["adaptive_average", "image_mean"]


def image_mean(x: Tensor) -> Tensor:
    """The mean of each channel, (B, C, H, W) -> (B, C, 1, 1), summed up in float32.

    `Tensor.mean` first writes a float32 copy of bfloat16 on a CPU; pooling does not, and takes a fifth of the time.
    """
    if x.dtype == torch.bfloat16 and x.device.type == "cpu" and not torch.is_grad_enabled():
        return F.avg_pool2d(x, (x.shape[-2], x.shape[-1]))
    return x.mean((2, 3), keepdim=True)


def adaptive_average(x: Tensor, bins: int) -> Tensor:
    """Means over a grid of `bins` x `bins` cells, (B, C, H, W) -> (B, C, bins, bins), as F.adaptive_avg_pool2d.

    Written as two matrix products, which every exporter can express for sizes that `bins` does not divide.
    """
    if bins == 1:
        return image_mean(x)
    rows = _cell_weights(x.shape[-2], bins, x)  # (bins, H)
    columns = _cell_weights(x.shape[-1], bins, x)  # (bins, W)
    return rows @ (x @ columns.T)


def _cell_weights(length: int, bins: int, like: Tensor) -> Tensor:
    """(bins, length): row i averages the positions floor(i L / bins) .. ceil((i + 1) L / bins) - 1."""
    position = torch.arange(length, device=like.device)
    cell = torch.arange(bins, device=like.device)[:, None]
    inside = (position >= cell * length // bins) & (position < -((-(cell + 1) * length) // bins))
    return (inside / inside.sum(1, keepdim=True)).to(like.dtype)
