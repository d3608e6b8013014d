"""Exact Euclidean distance transform of binary masks, in two or three dimensions, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "distance_transform",
    "distances_at",
    "float_distance_transform",
    "square_root",
    "squared_distance_transform",
]

_OPENCV_EXACT = 1 << 19  # squared pixels; from 783226 on its squares, rounded, may be off (with one thread)
_BLOCK = 8  # shifts between two looks at the largest distance left; a GPU is not looked at, as that waits for it


def distance_transform(mask: Tensor, spacing: Sequence[float] = (1.0, 1.0)) -> Tensor:
    """Distance of each True pixel to the nearest False pixel, float64; 0 at False, infinity where nothing is False.

    mask (..., H, W) or, with three spacings, (..., D, H, W), bool; spacing: size of a pixel along these axes. What
    lies outside the mask does not count as False. No gradient. ValueError for a mask with fewer axes than spacings.
    """
    return square_root(squared_distance_transform(mask, spacing))


def square_root(values: Tensor) -> Tensor:
    """Correctly rounded square roots: torch's own on a CPU goes through a vector library that misses the last bit."""
    return torch.from_numpy(np.sqrt(values.numpy())) if values.device.type == "cpu" else values.sqrt()


def squared_distance_transform(mask: Tensor, spacing: Sequence[float] = (1.0, 1.0)) -> Tensor:
    """The square of `distance_transform`, exact for unit spacing.

    Separable: distances along the last axis by two running maxima, then along each other axis the lower envelope of
    parabolas (Felzenszwalb & Huttenlocher, 2012) by shifts that grow until they exceed the largest distance left.
    """
    if mask.ndim < len(spacing):
        raise ValueError(f"distance_transform: a mask of shape {tuple(mask.shape)} for {len(spacing)} spacings")
    if min(spacing) <= 0:
        raise ValueError(f"distance_transform: spacing {tuple(spacing)}; expected sizes above 0")
    squares = _along_last_axis(mask.bool(), float(spacing[-1]))
    for axis, step in zip(range(-2, -len(spacing) - 1, -1), reversed(spacing[:-1])):
        squares = _spread(squares, axis, float(step))
    return squares


def _along_last_axis(mask: Tensor, step: float) -> Tensor:
    length = mask.shape[-1]
    if not mask.numel():
        return mask.double()
    far = 2 * length + 1
    place = torch.arange(length, device=mask.device, dtype=torch.int32).expand(mask.shape)
    before = torch.where(mask, -far, place).cummax(-1).values
    after = torch.where(mask, 2 * far, place).flip(-1).cummin(-1).values.flip(-1)
    nearest = torch.minimum(place - before, after - place)
    return torch.where(nearest > length, torch.inf, (nearest.double() * step).square())


def _spread(squares: Tensor, axis: int, step: float) -> Tensor:
    length = squares.shape[axis]
    result = squares.clone()
    limit, look = torch.inf, squares.device.type == "cpu"
    for shift in range(1, length):
        if look and shift % _BLOCK == 1 and limit > 0:
            limit = float(result.max()) if result.numel() else 0.0
        cost = (shift * step) ** 2
        if cost >= limit:  # no parabola from so far away can still be lower
            break
        kept = length - shift
        lower, upper = result.narrow(axis, 0, kept), result.narrow(axis, shift, kept)
        torch.minimum(lower, squares.narrow(axis, shift, kept) + cost, out=lower)
        torch.minimum(upper, squares.narrow(axis, 0, kept) + cost, out=upper)
    return result


def distances_at(places: Tensor, mask: Tensor, spacing: Sequence[float] = (1.0, 1.0)) -> Tensor:
    """`distance_transform` of one mask (H, W) or (D, H, W) at places (N, D) int64 alone: (N,) float64, exact for unit
    spacing."""
    if mask.device.type != "cpu" or len(spacing) != 2 or spacing[0] != spacing[1]:
        return square_root(_squares_at(places, mask, spacing))
    squares = torch.from_numpy(_opencv_squares(mask.numpy()))[tuple(places.T)]
    far = squares >= _OPENCV_EXACT
    squares[far] = _squares_at(places[far], mask, (1.0, 1.0))
    return square_root(squares) * spacing[0]


def _squares_at(places: Tensor, mask: Tensor, spacing: Sequence[float]) -> Tensor:
    """Squared distances at places. Along the first axis, which costs a transform most, only these are looked at, each
    no farther than it has to be."""
    if not len(places):
        return places.new_zeros(0, dtype=torch.float64)
    squares = squared_distance_transform(mask, spacing[1:])  # along the other axes
    result = squares[tuple(places.T)]
    left, (row, *others) = torch.arange(len(places), device=places.device), places.T
    for shift in range(1, len(mask)):
        cost = (shift * float(spacing[0])) ** 2
        if mask.device.type == "cpu" and shift % _BLOCK == 1:
            left = left[result[left] > cost]
            if not len(left):
                break
            row, *others = places[left].T
        # beyond the ends the last pixel stands in, at more than its own cost
        before, after = (squares[(one.clamp(0, len(mask) - 1), *others)] for one in (row - shift, row + shift))
        result[left] = torch.minimum(result[left], torch.minimum(before, after) + cost)
    return result


def float_distance_transform(mask: Tensor, axes: int = 2) -> Tensor:
    """`distance_transform` with unit spacing along the last `axes` axes, float32, for losses: images on a CPU by
    OpenCV, whose transform is exact too (up to 724 pixels; beyond, to 6 digits) and ten times as fast."""
    if mask.device.type == "cpu" and axes == 2:
        return _opencv_distances(mask.bool())
    return distance_transform(mask, (1.0,) * axes).float()


def _opencv_squares(mask: np.ndarray) -> np.ndarray:
    """Squared distances of one mask (H, W) bool in pixels, float64; exact below `_OPENCV_EXACT`."""
    import cv2

    if mask.all():
        return np.full(mask.shape, np.inf)
    image = np.ascontiguousarray(mask).view(np.uint8)
    found = cv2.distanceTransform(image, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)
    # its last digit hangs on where the image lies in memory; the squares are whole numbers
    return np.rint(found * found)


@torch.library.custom_op("vision::opencv_distances", mutates_args=())
def _opencv_distances(mask: Tensor) -> Tensor:
    distances = torch.empty(mask.shape, dtype=torch.float32)
    if mask.numel():
        size = mask.shape[-2:]
        pairs = zip(mask.reshape(-1, *size).numpy(), distances.view(-1, *size).numpy())
        for image, result in pairs:
            result[:] = np.sqrt(_opencv_squares(image))
    return distances


@_opencv_distances.register_fake
def _(mask: Tensor) -> Tensor:
    return torch.empty_like(mask, dtype=torch.float32)
