"""Outlines of masks and the bands along their inside, and those of all classes of a label map at once.

Boundary IoU is the overlap of two masks' bands (Cheng et al., arXiv:2103.16562).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vision.ops.histogram import count_values

__all__ = [
    "boundary_band", "boundary_iou", "boundary_width", "label_band", "label_boundary_iou", "label_outline",
    "mask_outline",
]  # fmt: skip


def mask_outline(mask: Tensor, axes: int = 2) -> Tensor:
    """Pixels of mask (..., H, W) (or with 3 axes (..., D, H, W)) that touch the outside along an axis, bool."""
    mask = mask.bool()
    return label_outline(mask, axes).logical_and_(mask)


def label_outline(labels: Tensor, axes: int = 2) -> Tensor:
    """Pixels of labels (..., H, W) (or with 3 axes (..., D, H, W)) with another label beside them along an axis, bool.

    Beyond the image lies another label. Of the pixels of one label this is its mask's outline (`mask_outline`).
    """
    edge = torch.zeros_like(labels, dtype=torch.bool)
    for axis in range(-axes, 0):
        length = labels.shape[axis]
        differs = labels.narrow(axis, 1, length - 1) != labels.narrow(axis, 0, length - 1)
        edge.narrow(axis, 1, length - 1).logical_or_(differs)
        edge.narrow(axis, 0, length - 1).logical_or_(differs)
        edge.narrow(axis, 0, 1).fill_(True)
        edge.narrow(axis, length - 1, 1).fill_(True)
    return edge


def label_band(labels: Tensor, width: int) -> Tensor:
    """Pixels of labels (..., H, W) with another label, or the end of the image, within `width` (chessboard), bool."""
    beside = _any_near(labels[..., 1:] != labels[..., :-1], -1, width)
    band = _any_near(labels[..., 1:, :] != labels[..., :-1, :], -2, width)
    inner = labels.shape[-2] - 2 * width
    if inner > 0:  # in a row within reach, a change beside that row's pixel
        count = _running(beside, -2)
        near = count.narrow(-2, 2 * width + 1, inner) != count.narrow(-2, 0, inner)
        band.narrow(-2, width, inner).logical_or_(near)
    return band


def _any_near(changes: Tensor, axis: int, width: int) -> Tensor:
    """Whether a pixel sees a change within `width`: changes between L pixels (L - 1 along `axis`) -> (L), bool."""
    count = _running(changes, axis)  # as many as pixels
    length = count.shape[axis]
    near = torch.ones_like(count, dtype=torch.bool)
    if length > 2 * width:
        inner = length - 2 * width
        near.narrow(axis, width, inner).copy_(count.narrow(axis, 2 * width, inner) != count.narrow(axis, 0, inner))
    return near


def _running(flags: Tensor, axis: int) -> Tensor:
    """How many flags are set before each place and before the end: one longer along `axis`, int32."""
    start = list(flags.shape)
    start[axis] = 1
    return torch.cat([flags.new_zeros(start, dtype=torch.int32), flags.cumsum(axis, dtype=torch.int32)], axis)


def boundary_width(height: int, width: int, ratio: float = 0.02) -> int:
    """Width of the band in pixels: `ratio` of the image's diagonal, rounded, at least 1."""
    return max(1, round(ratio * (height**2 + width**2) ** 0.5))


def boundary_band(masks: Tensor, width: int) -> Tensor:
    """Pixels of masks (..., H, W) within `width` of the outside (chessboard distance; beyond the image is outside)."""
    masks = masks.bool()
    return label_band(masks, width).logical_and_(masks)


def boundary_iou(predicted: Tensor, truth: Tensor, ratio: float = 0.02) -> Tensor:
    """IoU of the bands of mask pairs (..., H, W) -> (...) float64; NaN where both masks are empty."""
    width = boundary_width(*truth.shape[-2:], ratio)
    first, second = boundary_band(predicted, width), boundary_band(truth, width)
    shared = (first & second).sum((-2, -1)).double()
    return shared / (first | second).sum((-2, -1))


def label_boundary_iou(predicted: Tensor, truth: Tensor, classes: int, ratio: float = 0.02) -> Tensor:
    """Boundary IoU by image and class (B, C) float64 of labels (B, H, W) in 0..C, C = no class; NaN: class in neither.

    The same as `boundary_iou` of each class's masks, in one pass over the maps and without a wait for the device.
    """
    batch, side = len(truth), classes + 1
    width = boundary_width(*truth.shape[-2:], ratio)
    image = torch.arange(batch, device=truth.device)[:, None, None] * side
    # outside of its band a pixel has no class
    first, second = (torch.where(label_band(one, width), one, classes) for one in (predicted, truth))
    shared = torch.where(first == second, first, classes)
    counts = [count_values(image + one, batch * side).view(batch, side)[:, :-1] for one in (first, second, shared)]
    return counts[2].double() / (counts[0] + counts[1] - counts[2])
