"""Boundary IoU (Cheng et al., arXiv:2103.16562): the overlap of the bands along the inside of two masks' outlines."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["boundary_band", "boundary_iou", "boundary_width"]


def boundary_width(height: int, width: int, ratio: float = 0.02) -> int:
    """Width of the band in pixels: `ratio` of the image's diagonal, rounded, at least 1."""
    return max(1, round(ratio * (height**2 + width**2) ** 0.5))


def boundary_band(masks: Tensor, width: int) -> Tensor:
    """Pixels of masks (..., H, W) within `width` of the outside (chessboard distance; beyond the image is outside)."""
    masks = masks.bool()
    return masks & ~_eroded(_eroded(masks, -1, width), -2, width)


def _eroded(masks: Tensor, axis: int, width: int) -> Tensor:
    """True where a pixel and `width` neighbours to both sides along an axis are True, counted by a running sum."""
    length = masks.shape[axis]
    count = masks.to(torch.int32).cumsum(axis, dtype=torch.int32)
    inner = torch.zeros_like(masks)
    if length > 2 * width:  # nearer to the end than that, the outside is within reach
        before = torch.zeros_like(count.narrow(axis, 0, 1))
        full = count.narrow(axis, 2 * width, length - 2 * width)
        start = torch.cat([before, count.narrow(axis, 0, length - 2 * width - 1)], axis)
        inner.narrow(axis, width, length - 2 * width).copy_(full - start == 2 * width + 1)
    return inner


def boundary_iou(predicted: Tensor, truth: Tensor, ratio: float = 0.02) -> Tensor:
    """IoU of the bands of mask pairs (..., H, W) -> (...) float64; NaN where both masks are empty."""
    width = boundary_width(*truth.shape[-2:], ratio)
    first, second = boundary_band(predicted, width), boundary_band(truth, width)
    shared = (first & second).sum((-2, -1)).double()
    return shared / (first | second).sum((-2, -1))
