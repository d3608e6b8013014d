"""Masks as runs: the foreground of many masks as intervals of rows, column by column.

Areas, boxes and intersections of all masks are computed at once from the intervals, on their device. On a CPU
`index_select` is several times faster than indexing, which is why it stands here and in the matching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["Runs", "concatenate_runs", "exclusive_sum", "intersections", "spans"]

ENTRIES = 1 << 16  # runs that are looked at together: what stays in the cache


@dataclass(frozen=True)
class Runs:
    """N masks of R runs: rows top to bottom - 1 of a column, (R,) int32 each, by mask, column and row, without
    overlap; count (N,) int64 runs of each mask; size (N, 2) int64 height, width of each mask's image."""

    column: Tensor
    top: Tensor
    bottom: Tensor
    count: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.count)

    def to(self, device: torch.device | str) -> Runs:
        return Runs(*(getattr(self, field.name).to(device) for field in fields(self)))

    @property
    def first(self) -> Tensor:
        """Index of each mask's first run (N,)."""
        return self.count.cumsum(0) - self.count

    @property
    def owner(self) -> Tensor:
        """The mask that each run belongs to (R,)."""
        return torch.repeat_interleave(self.count, output_size=len(self.column))

    def area(self) -> Tensor:
        """Foreground pixels of each mask (N,) int64."""
        total = exclusive_sum(self.bottom - self.top)
        first = self.first
        return total.index_select(0, first + self.count) - total.index_select(0, first)

    def columns(self) -> tuple[Tensor, Tensor]:
        """First column of each mask and how many there are up to its last, (N,) int64; zeros for an empty mask."""
        if not len(self.column):
            return torch.zeros_like(self.count), torch.zeros_like(self.count)
        first, some = self.first, self.count > 0
        left = torch.where(some, self.column[torch.where(some, first, 0)], 0).long()
        right = torch.where(some, self.column[torch.where(some, first + self.count - 1, 0)], -1)
        return left, right - left + 1

    def boxes(self) -> Tensor:
        """Tight boxes (N, 4) int64: x, y, width, height; zeros for an empty mask."""
        left, width = self.columns()
        owner = self.owner
        top = torch.full((len(self),), torch.iinfo(torch.int32).max, dtype=torch.int32, device=owner.device)
        top.scatter_reduce_(0, owner, self.top, "amin")
        bottom = torch.zeros_like(top).scatter_reduce_(0, owner, self.bottom, "amax")
        top = torch.where(self.count > 0, top, 0)
        return torch.stack([left, top.long(), width, (bottom - top).long()], 1)

    def select(self, index: Tensor) -> Runs:
        """The masks that `index` (M,) names, in that order."""
        count = self.count.index_select(0, index)
        runs = spans(self.first.index_select(0, index), count)
        return Runs(
            self.column.index_select(0, runs),
            self.top.index_select(0, runs),
            self.bottom.index_select(0, runs),
            count,
            self.size.index_select(0, index),
        )


def exclusive_sum(counts: Tensor) -> Tensor:
    """Running sum along the last axis, int64, before each entry, with the total at the end."""
    return torch.nn.functional.pad(counts.cumsum(-1), (1, 0))


def spans(first: Tensor, count: Tensor) -> Tensor:
    """first[0], first[0] + 1, ... count[0] of them, then those of first[1], ..."""
    shift = first - (count.cumsum(0) - count)
    moved = torch.repeat_interleave(shift, count)
    return moved.add_(torch.arange(len(moved), device=moved.device))


@dataclass(frozen=True)
class ColumnTable:
    """The runs of masks by column: cell c of mask m stands at offset[m] + c, c from left[m] on, width[m] of them (N,).

    cell (R,) of each run · number (cells,) of runs · first (cells,) run · tops, bottoms: rows of the k-th run of each
    cell for k < 4, (cells,) int32 each, 0 where there is none.
    """

    left: Tensor
    width: Tensor
    offset: Tensor
    cell: Tensor
    number: Tensor
    first: Tensor
    tops: list[Tensor]
    bottoms: list[Tensor]

    @classmethod
    def of(cls, runs: Runs) -> ColumnTable:
        left, width = runs.columns()
        offset = width.cumsum(0) - width - left
        cell = runs.column + torch.repeat_interleave(offset, runs.count, output_size=len(runs.column))
        number = torch.bincount(cell, minlength=int(width.sum()))
        first = exclusive_sum(number)[:-1]
        turn = torch.arange(len(cell), device=cell.device) - first.index_select(0, cell)
        tops, bottoms = [], []
        for k in range(min(int(number.max()), 4)):
            chosen = (turn == k).nonzero()[:, 0]
            for rows, edge in ((tops, runs.top), (bottoms, runs.bottom)):
                rows.append(torch.zeros_like(number, dtype=torch.int32))
                rows[-1][cell[chosen]] = edge[chosen]
        return cls(left, width, offset, cell, number, first, tops, bottoms)


def intersections(a: Runs, b: Runs, a_index: Tensor, b_index: Tensor) -> Tensor:
    """Pixels that mask a_index[i] of `a` and mask b_index[i] of `b` share, (P,) int64; masks of equal image size.

    Each run of the first mask meets those of the second in its column. Quick where `b` has fewer masks than `a`.
    """
    shared = torch.zeros_like(a_index)
    if not (len(a.column) and len(b.column) and len(a_index)):
        return shared
    table = ColumnTable.of(b)
    wide = int(max(a.column.max(), b.column.max())) + 2
    place = a.owner * wide + a.column
    left = a_index * wide + table.left.index_select(0, b_index)
    low = torch.searchsorted(place, left)
    count = torch.searchsorted(place, left + table.width.index_select(0, b_index)) - low
    part = torch.div(count.cumsum(0) - count, ENTRIES, rounding_mode="floor")
    start = 0
    for size in torch.bincount(part).tolist():
        chosen = slice(start, start + size)
        start += size
        runs = spans(low[chosen], count[chosen])
        cell = a.column.index_select(0, runs) + torch.repeat_interleave(table.offset[b_index[chosen]], count[chosen])
        pixels = _pixels_in_column(a.top.index_select(0, runs), a.bottom.index_select(0, runs), cell, b, table)
        total = exclusive_sum(pixels)
        stop = count[chosen].cumsum(0)
        shared[chosen] = total[stop] - total[stop - count[chosen]]
    return shared


def _pixels_in_column(top: Tensor, bottom: Tensor, cell: Tensor, b: Runs, table: ColumnTable) -> Tensor:
    """Pixels that rows top to bottom - 1 (E,) share with the runs of `b` in a cell of its table (E,).

    One run after the other where the cell has up to four; otherwise a search for both ends in running sums.
    """
    shared = _overlap(top, bottom, table.tops[0].index_select(0, cell), table.bottoms[0].index_select(0, cell))
    if len(table.tops) == 1:
        return shared
    number = table.number.index_select(0, cell)
    for k in range(1, len(table.tops)):
        more = (number > k).nonzero()[:, 0]
        at = cell.index_select(0, more)
        shared[more] += _overlap(
            top.index_select(0, more),
            bottom.index_select(0, more),
            table.tops[k].index_select(0, at),
            table.bottoms[k].index_select(0, at),
        )
    more = (number > 4).nonzero()[:, 0]
    if len(more):
        shared[more] = _pixels_by_search(
            top.index_select(0, more), bottom.index_select(0, more), cell.index_select(0, more), b, table
        )
    return shared


def _overlap(top: Tensor, bottom: Tensor, other_top: Tensor, other_bottom: Tensor) -> Tensor:
    return torch.minimum(bottom, other_bottom).sub_(torch.maximum(top, other_top)).clamp_(min=0)


def _pixels_by_search(top: Tensor, bottom: Tensor, cell: Tensor, b: Runs, table: ColumnTable) -> Tensor:
    tall = int(b.size[:, 0].max()) + 1
    place = table.cell * tall + b.top
    lengths = exclusive_sum(b.bottom - b.top)
    first = table.first.index_select(0, cell)

    def before(row: Tensor) -> Tensor:
        run = torch.searchsorted(place, cell * tall + row, right=True) - 1  # the last one starting at or above
        last = run.clamp(min=0)
        inside = (
            lengths.index_select(0, last)
            + torch.minimum(row, b.bottom.index_select(0, last))
            - b.top.index_select(0, last)
        )
        return torch.where(run >= first, inside, lengths.index_select(0, first))

    return (before(bottom) - before(top)).to(torch.int32)


def concatenate_runs(parts: Sequence[Runs]) -> Runs:
    """All masks of `parts` in one, on the device of the first."""
    return Runs(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Runs)))
