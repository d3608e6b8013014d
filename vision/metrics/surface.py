"""Distances between the outlines of masks: Hausdorff, its percentiles, average surface distance, surface Dice.

The outline of a mask is its pixels with a neighbour along an axis that is not in it; outside of the image nothing is
in it. Rules: both masks empty, undefined (NaN); one empty, the worst: infinite distances, surface Dice 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vision.ops.distance import distance_transform, square_root

__all__ = ["mask_outline", "outline_distances", "percentile", "surface_figures"]

_PAIRS = 1 << 22  # distances between single points held at once
_DIRECT = 1 << 24  # beyond so many pairs of points the distance transform is cheaper


def mask_outline(mask: Tensor, axes: int = 2) -> Tensor:
    """Pixels of mask (..., H, W) (or with 3 axes (..., D, H, W)) that touch the outside along an axis, bool."""
    mask = mask.bool()
    inner = mask.clone()
    for axis in range(-axes, 0):
        length = mask.shape[axis]
        inner.narrow(axis, 1, length - 1).logical_and_(mask.narrow(axis, 0, length - 1))
        inner.narrow(axis, 0, length - 1).logical_and_(mask.narrow(axis, 1, length - 1))
        inner.narrow(axis, 0, 1).fill_(False)
        inner.narrow(axis, length - 1, 1).fill_(False)
    return mask & ~inner


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
    predicted, truth = mask_outline(predicted[window], len(spacing)), mask_outline(truth[window], len(spacing))
    first, second = predicted.nonzero(), truth.nonzero()
    if not len(first) or not len(second):
        return tuple(torch.full((len(points),), torch.inf, dtype=torch.float64) for points in (first, second))
    if len(first) * len(second) > _DIRECT:
        to_truth, to_predicted = (distance_transform(~edge, spacing) for edge in (truth, predicted))
        return to_truth[predicted], to_predicted[truth]
    return tuple(map(square_root, _nearest(first, second, spacing)))


def _window(a: Tensor, b: Tensor) -> tuple[slice, ...]:
    """The box around both masks, along all axes: the outline inside it is theirs, as nothing lies beyond."""
    window = []
    both = a.bool() | b.bool()
    for axis in range(both.ndim):
        others = [i for i in range(both.ndim) if i != axis]
        places = both.any(others).nonzero()
        window.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 1))
    return tuple(window)


def _nearest(first: Tensor, second: Tensor, spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Squared distance from each point (N, D) to the nearest of the others (M, D), both ways, float64."""
    unit = all(step == 1 for step in spacing)
    step = first.new_tensor(spacing, dtype=torch.float64)
    # whole numbers below 2**24 are exact in float32, products and all: one matrix product gives squared distances
    exact = unit and 4 * int(torch.maximum(first.max(0).values, second.max(0).values).square().sum()) < 2**24
    forth, back = [], None
    for part in first.split(max(1, _PAIRS // len(second))):
        squares = _by_product(part, second) if exact else ((part[:, None] - second) * step).square().sum(-1)
        forth.append(squares.amin(1))
        nearest = squares.amin(0)
        back = nearest if back is None else torch.minimum(back, nearest)
    return torch.cat(forth).double(), back.double()


def _by_product(first: Tensor, second: Tensor) -> Tensor:
    first, second = first.float(), second.float()
    ones = torch.ones(len(first), 1, device=first.device), torch.ones(len(second), 1, device=first.device)
    left = torch.cat([first * -2, first.square().sum(1, keepdim=True), ones[0]], 1)
    return left @ torch.cat([second, ones[1], second.square().sum(1, keepdim=True)], 1).T


def percentile(values: Tensor, share: float) -> Tensor:
    """The `share` percentile of values (N,), N >= 1, linear between ranks, with numpy's rounding."""
    ordered = values.sort().values
    rank = (len(values) - 1) * (share / 100)
    low = int(rank)
    part = rank - low
    below, above = ordered[low], ordered[min(low + 1, len(values) - 1)]
    if bool(below.isinf()) or bool(above.isinf()):
        return above if part > 0 else below
    return above - (above - below) * (1 - part) if part >= 0.5 else below + (above - below) * part


def surface_figures(
    predicted: Tensor,
    truth: Tensor,
    spacing: Sequence[float] = (1.0, 1.0),
    *,
    share: float = 95.0,
    tolerance: float = 1.0,
) -> dict[str, float]:
    """hausdorff, hd95 (the larger of the two directions' `share` percentiles), assd, surface_dice at `tolerance`.

    One pair of masks as in `outline_distances`, distances in units of spacing. NaN and infinity by the rules above.
    """
    forth, back = outline_distances(predicted, truth, spacing)
    if not len(forth) and not len(back):
        return dict.fromkeys(("hausdorff", "hd95", "assd", "surface_dice"), float("nan"))
    if not len(forth) or not len(back):
        return {"hausdorff": torch.inf, "hd95": torch.inf, "assd": torch.inf, "surface_dice": 0.0}
    number = len(forth) + len(back)
    close = (forth <= tolerance).sum() + (back <= tolerance).sum()
    return {
        "hausdorff": float(torch.maximum(forth.max(), back.max())),
        "hd95": float(torch.maximum(percentile(forth, share), percentile(back, share))),
        "assd": float(forth.sum() + back.sum()) / number,
        "surface_dice": float(close) / number,
    }
