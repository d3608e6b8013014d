"""Bands along the inside of masks' outlines, as runs: what boundary AP compares (Cheng et al., arXiv:2103.16562)."""

from __future__ import annotations

import torch
from torch import Tensor

from vision.metrics.outlines import boundary_band
from vision.metrics.run_reading import runs_from_bitmaps
from vision.metrics.runs import Runs, concatenate_runs

__all__ = ["boundary_bands"]

PIXELS = 1 << 21  # that are drawn at a time


def boundary_bands(runs: Runs, ratio: float = 0.02) -> Runs:
    """Pixels of each mask within `ratio` of its image's diagonal (rounded, at least 1 pixel) of the outside.

    Chessboard distance; beyond the image is outside. Masks with one run in each of their columns are narrowed as runs,
    the others are drawn, cropped to their boxes.
    """
    if not len(runs.column):
        return runs
    reach = ((runs.size.double() ** 2).sum(1).sqrt() * ratio).round().clamp(min=1).long()
    owner, (_, width) = runs.owner, runs.columns()
    again = (runs.column[1:] == runs.column[:-1]) & (owner[1:] == owner[:-1])
    twice = torch.zeros_like(runs.count).scatter_add_(0, owner[1:], again.long())
    simple = (runs.count == width) & (twice == 0)
    order, parts = [], []
    for distance in reach.unique().tolist():
        for kind, make in ((simple, _narrowed), (~simple, _drawn)):
            chosen = (kind & (reach == distance)).nonzero()[:, 0]
            if len(chosen):
                indices, bands = make(runs, chosen, distance)
                order += indices
                parts += bands
    return concatenate_runs(parts).select(torch.cat(order).argsort())


def _narrowed(runs: Runs, chosen: Tensor, reach: int) -> tuple[list[Tensor], list[Runs]]:
    """Bands of masks whose columns are one run each: the inside of a column is what its neighbours up to `reach` share
    of their rows, less `reach` at both ends."""
    runs = runs.select(chosen)
    first = torch.repeat_interleave(runs.first, runs.count)
    place = torch.arange(len(first), device=first.device)
    last = first + torch.repeat_interleave(runs.count, runs.count) - 1
    within = (place - reach >= first) & (place + reach <= last)
    inner_top = _window_maximum(runs.top + reach, reach)
    inner_bottom = -_window_maximum(reach - runs.bottom, reach)
    hollow = within & (inner_top < inner_bottom)
    top = torch.stack([runs.top, torch.where(hollow, inner_bottom, runs.bottom)], 1).flatten()
    bottom = torch.stack([torch.where(hollow, inner_top, runs.bottom), runs.bottom], 1).flatten()
    kept = (top < bottom).nonzero()[:, 0]
    run = torch.div(kept, 2, rounding_mode="floor")
    count = torch.bincount(runs.owner[run], minlength=len(runs))
    return [chosen], [Runs(runs.column[run], top[kept], bottom[kept], count, runs.size)]


def _window_maximum(values: Tensor, reach: int) -> Tensor:
    """Maximum of the `reach` values before and after each one and of itself; where fewer stand there, anything."""
    length, best = 1, values.clone()
    while 2 * length <= 2 * reach + 1:  # best: maximum of `length` values from each one on
        best[:-length] = torch.maximum(best[:-length], best[length:])
        length *= 2
    place = torch.arange(len(values), device=values.device)
    left, right = (place - reach).clamp(min=0), (place + reach - length + 1).clamp(0, len(values) - 1)
    return torch.maximum(best[left], best[right])


def _drawn(runs: Runs, chosen: Tensor, reach: int) -> tuple[list[Tensor], list[Runs]]:
    """Bands of any masks: drawn in their boxes, those of similar size together."""
    boxes = runs.boxes()[chosen]
    pixels, order = (boxes[:, 2] * boxes[:, 3]).sort()
    chosen, boxes = chosen[order], boxes[order]
    sizes = torch.bincount(torch.div(pixels.cumsum(0) - 1, PIXELS, rounding_mode="floor").clamp(min=0)).tolist()
    indices, parts = [], []
    for index, box in zip(chosen.split(sizes), boxes.split(sizes)):
        if len(index):
            indices.append(index)
            parts.append(_drawn_together(runs.select(index), box, reach))
    return indices, parts


def _drawn_together(runs: Runs, boxes: Tensor, reach: int) -> Runs:
    owner, left, above = runs.owner, boxes[:, 0].int(), boxes[:, 1].int()
    width, height = boxes[:, 2:].amax(0).tolist()
    edges = torch.zeros((len(runs), height + 1, max(width, 1)), dtype=torch.int8, device=owner.device)
    column = (runs.column - left[owner]).long()
    one = torch.ones_like(owner, dtype=torch.int8)
    edges.index_put_((owner, (runs.top - above[owner]).long(), column), one, accumulate=True)
    edges.index_put_((owner, (runs.bottom - above[owner]).long(), column), -one, accumulate=True)
    bands = runs_from_bitmaps(boundary_band(edges.cumsum(1, dtype=torch.int8)[:, :-1] > 0, reach))
    owner = bands.owner
    top, bottom = bands.top + above[owner], bands.bottom + above[owner]
    return Runs(bands.column + left[owner], top, bottom, bands.count, runs.size)
