"""Distances between the outlines of masks: Hausdorff, its percentiles, average surface distance, surface Dice.

The outline of a mask is its pixels with a neighbour along an axis that is not in it; outside of the image nothing is
in it. Rules: both masks empty, undefined (NaN); one empty, the worst: infinite distances, surface Dice 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vision.metrics.outlines import mask_outline
from vision.ops.distance import distances_at, square_root

__all__ = [
    "distance_figures",
    "outline_distances",
    "percentile_of",
    "point_distances",
    "surface_figures",
]

_PAIRS = 1 << 22  # distances between single points held at once
_DIRECT, _DIRECT_ON_GPU = 1 << 24, 1 << 33  # beyond so many pairs of points the distance transform is cheaper


def outline_distances(predicted: Tensor, truth: Tensor, spacing: Sequence[float] = (1.0, 1.0)) -> tuple[Tensor, Tensor]:
    """Distance of each outline pixel of `predicted` to the outline of `truth`, and the reverse; float64, exact.

    One pair of masks (H, W) or (D, H, W), as many axes as spacings. Empty where a mask is; infinite to an empty mask.
    """
    if predicted.shape != truth.shape or predicted.ndim != len(spacing):
        raise ValueError(
            f"outline_distances: masks {tuple(predicted.shape)} and {tuple(truth.shape)}, {len(spacing)} spacings; "
            "expected one mask each, of equal shape, with a spacing for each axis"
        )
    window = _window(predicted, truth)
    edges = [mask_outline(mask[window], len(spacing)) for mask in (predicted, truth)]
    return point_distances(*(edge.nonzero() for edge in edges), edges[0].shape, spacing)


def _window(a: Tensor, b: Tensor) -> tuple[slice, ...]:
    """The box around both masks, along all axes: the outline inside it is theirs, as nothing lies beyond."""
    window = []
    both = a.bool() | b.bool()
    for axis in range(both.ndim):
        others = [i for i in range(both.ndim) if i != axis]
        places = both.any(others).nonzero()
        window.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 1))
    return tuple(window)


def point_distances(
    first: Tensor, second: Tensor, size: Sequence[int], spacing: Sequence[float] = (1.0, 1.0)
) -> tuple[Tensor, Tensor]:
    """Distance from each point (N, D) to the nearest of the others (M, D), and the reverse: (N,), (M,) float64, exact.

    Points are places int64 in a grid of `size`. Infinite where there are no others. No wait for the device.
    """
    if not len(first) or not len(second):
        return tuple(
            torch.full((len(one),), torch.inf, dtype=torch.float64, device=one.device) for one in (first, second)
        )
    if len(first) * len(second) > (_DIRECT if first.device.type == "cpu" else _DIRECT_ON_GPU):
        return _through_transform(first, second, size, spacing), _through_transform(second, first, size, spacing)
    return tuple(map(square_root, _nearest(first, second, size, spacing)))


def _through_transform(points: Tensor, others: Tensor, size: Sequence[int], spacing: Sequence[float]) -> Tensor:
    if points.device.type == "cpu":  # on a GPU the window would have to be waited for
        corner = torch.minimum(points.amin(0), others.amin(0))
        size = (torch.maximum(points.amax(0), others.amax(0)) - corner + 1).tolist()
        points, others = points - corner, others - corner
    away = torch.ones(tuple(size), dtype=torch.bool, device=points.device)
    away[tuple(others.T)] = False
    return distances_at(points, away, spacing)


def _nearest(first: Tensor, second: Tensor, size: Sequence[int], spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Squared distance from each point (N, D) to the nearest of the others (M, D), both ways, float64."""
    unit = all(step == 1 for step in spacing)
    step = torch.tensor(spacing, dtype=torch.float64).to(first.device, non_blocking=True)
    forth, back = [], None
    for part in first.split(max(1, _PAIRS // len(second))):
        squares = _by_product(part, second, size) if unit else ((part[:, None] - second) * step).square().sum(-1)
        forth.append(squares.amin(1))
        nearest = squares.amin(0)
        back = nearest if back is None else torch.minimum(back, nearest)
    return torch.cat(forth).double(), back.double()


def _by_product(first: Tensor, second: Tensor, size: Sequence[int]) -> Tensor:
    # whole numbers below 2**24 are exact in float32, products and all: one matrix product gives squared distances.
    # Not where a GPU or a setting may round its factors to fewer digits
    full = first.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    dtype = torch.float32 if full and 2 * sum(side**2 for side in size) <= 2**24 else torch.float64
    first, second = first.to(dtype), second.to(dtype)
    left = torch.cat([first * -2, first.square().sum(1, keepdim=True), torch.ones_like(first[:, :1])], 1)
    return left @ torch.cat([second, torch.ones_like(second[:, :1]), second.square().sum(1, keepdim=True)], 1).T


def percentile_of(values: Tensor, percentile: float) -> Tensor:
    """The `percentile` (0 to 100) of values (N,), N >= 1, linear between ranks, with numpy's rounding. 0-dim.

    Between a finite and an infinite rank it is infinite.
    """
    ordered = values.sort().values
    rank = (len(values) - 1) * (percentile / 100)
    low = int(rank)
    part = rank - low
    below, above = ordered[low], ordered[min(low + 1, len(values) - 1)]
    if part == 0:
        return below
    between = above - (above - below) * (1 - part) if part >= 0.5 else below + (above - below) * part
    return torch.where(above.isinf(), above, between)


def distance_figures(forth: Tensor, back: Tensor, percentile: float, tolerance: float) -> Tensor:
    """Hausdorff, `percentile`, average, surface Dice of the distances of two outlines both ways: (4,) float64.

    NaN where both are empty; infinite distances and a Dice of 0 where one is. No wait for the device.
    """
    if not len(forth) and not len(back):
        return forth.new_full((4,), torch.nan)
    if not len(forth) or not len(back):
        worst = forth.new_full((4,), torch.inf)
        worst[3] = 0
        return worst
    number = len(forth) + len(back)
    return torch.stack([
        torch.maximum(forth.max(), back.max()),
        torch.maximum(percentile_of(forth, percentile), percentile_of(back, percentile)),
        (forth.sum() + back.sum()) / number,
        ((forth <= tolerance).sum() + (back <= tolerance).sum()).double() / number,
    ])  # fmt: skip


def surface_figures(
    predicted: Tensor,
    truth: Tensor,
    spacing: Sequence[float] = (1.0, 1.0),
    *,
    percentile: float = 95.0,
    tolerance: float = 1.0,
) -> dict[str, float]:
    """hausdorff, hd95 (the larger of the two directions' percentiles), assd, surface_dice at `tolerance`.

    One pair of masks as in `outline_distances`, distances in units of spacing. NaN and infinity by the rules above.
    """
    figures = distance_figures(*outline_distances(predicted, truth, spacing), percentile, tolerance)
    return dict(zip(("hausdorff", "hd95", "assd", "surface_dice"), figures.tolist()))
