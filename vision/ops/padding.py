"""Extending images by their mirror image and cropping maps: what networks without padding need."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["centre_crop", "mirror", "valid_margins"]


def valid_margins(length: int, depth: int) -> tuple[int, int]:
    """Pixels to add before and after a side of `length` so that valid convolutions return at least `length` of them.

    At the bottom of `depth` poolings the path is n pixels wide before its double convolution (4 pixels off); each
    step up gives 2 m - 4. All sizes on the way down are even because they are built from the bottom up.
    """
    taken = 0  # output = 2**depth * bottom - taken, from the map after the deepest double convolution
    for _ in range(depth):
        taken = 2 * taken + 4
    bottom = -(-(length + taken) // 2**depth) + 4  # before the deepest double convolution
    size = bottom
    for _ in range(depth):
        size = 2 * size + 4
    lost = size - (2**depth * (bottom - 4) - taken)
    return lost // 2, size - length - lost // 2


def mirror(x: Tensor, margins: tuple[int, int, int, int]) -> Tensor:
    """`x` (B, C, H, W) extended by its mirror image: top, bottom, left, right pixels, as often as needed."""
    rows = _mirrored_index(x.shape[-2], margins[0], margins[1], x.device)
    columns = _mirrored_index(x.shape[-1], margins[2], margins[3], x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


def _mirrored_index(length: int, before: int, after: int, device: torch.device) -> Tensor:
    period = max(2 * length - 2, 1)
    position = torch.arange(-before, length + after, device=device).remainder(period)
    return torch.where(position < length, position, period - position).clamp(0, length - 1)


def centre_crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of `x` (B, C, H, W), `size` high and wide."""
    top, left = ((old - new) // 2 for old, new in zip(x.shape[-2:], size))
    return x[..., top : top + size[0], left : left + size[1]]
