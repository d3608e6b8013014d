"""Masks as runs: the foreground of many masks as sorted intervals of pixel numbers, counted down the columns (COCO).

Areas, boxes and intersections of all masks are computed at once from the interval ends, on the device of the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Runs", "concatenate_runs", "intersections", "spans"]


@dataclass(frozen=True)
class Runs:
    """N masks: start, end (R,) int64 pixel numbers x * height + y, end exclusive, rising within a mask; count (N,)
    runs of each mask; size (N, 2) height, width of each mask's image."""

    start: Tensor
    end: Tensor
    count: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.count)

    def to(self, device: torch.device | str) -> Runs:
        return Runs(*(getattr(self, name).to(device) for name in ("start", "end", "count", "size")))

    @property
    def first(self) -> Tensor:
        """Index of each mask's first run (N,)."""
        return self.count.cumsum(0) - self.count

    @property
    def owner(self) -> Tensor:
        """The mask that each run belongs to (R,)."""
        return torch.repeat_interleave(self.count)

    def area(self) -> Tensor:
        """Foreground pixels of each mask (N,) int64."""
        lengths = self.end - self.start
        total = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=lengths.device)
        torch.cumsum(lengths, 0, out=total[1:])
        return total[self.first + self.count] - total[self.first]

    def boxes(self) -> Tensor:
        """Tight boxes (N, 4) int64: x, y, width, height; zeros for an empty mask."""
        owner, height = self.owner, self.size[:, 0][self.owner]
        last = self.end - 1
        left, right = self.start // height, last // height
        crosses = right > left  # such a run touches the bottom row and the next column's top row
        top = torch.where(crosses, 0, self.start % height)
        bottom = torch.where(crosses, height - 1, last % height)
        low = torch.full((len(self), 2), torch.iinfo(torch.int64).max, device=owner.device)
        high = torch.full((len(self), 2), -1, device=owner.device)
        index = owner[:, None].expand(-1, 2)
        low.scatter_reduce_(0, index, torch.stack([left, top], 1), "amin")
        high.scatter_reduce_(0, index, torch.stack([right, bottom], 1), "amax")
        boxes = torch.cat([low, high - low + 1], 1)
        return torch.where((self.count > 0)[:, None], boxes, 0)

    def select(self, index: Tensor) -> Runs:
        """The masks that `index` (M,) names, in that order."""
        count = self.count[index]
        runs = spans(self.first[index], count)
        return Runs(self.start[runs], self.end[runs], count, self.size[index])


def spans(first: Tensor, count: Tensor) -> Tensor:
    """first[0], first[0] + 1, ... count[0] of them, then those of first[1], ..."""
    shift = first - (count.cumsum(0) - count)
    owner = torch.repeat_interleave(count)
    return torch.arange(len(owner), device=owner.device) + shift[owner]


def intersections(a: Runs, b: Runs, a_index: Tensor, b_index: Tensor) -> Tensor:
    """Pixels that mask a_index[i] of `a` and mask b_index[i] of `b` share, (P,) int64; masks of equal image size.

    Each run of the first mask asks how many of the second's pixels lie before its two ends: one binary search over
    all masks of `b` laid end to end, and one prefix sum.
    """
    extent = int(max((a.size.prod(1).max() if len(a) else 0), (b.size.prod(1).max() if len(b) else 0))) + 1
    lengths = torch.cat([b.start.new_zeros(1), (b.end - b.start).cumsum(0)])
    place = b.start + b.owner * extent
    count = a.count[a_index]
    runs, pair = spans(a.first[a_index], count), torch.repeat_interleave(count)
    other = b_index[pair]

    b_start = lengths[b.first]

    def before(pixel: Tensor) -> Tensor:
        run = torch.searchsorted(place, pixel + other * extent, right=True) - 1  # the last run starting at or before
        inside = run >= b.first[other]
        run = run.clamp(min=0)
        return torch.where(inside, lengths[run] + torch.minimum(pixel, b.end[run]) - b.start[run], b_start[other])

    shared = before(a.end[runs]) - before(a.start[runs])
    total = torch.cat([shared.new_zeros(1), shared.cumsum(0)])
    stop = count.cumsum(0)
    return total[stop] - total[stop - count]


def concatenate_runs(parts: Sequence[Runs]) -> Runs:
    """All masks of `parts` in one, on the device of the first."""
    return Runs(*(torch.cat([getattr(part, name) for part in parts]) for name in ("start", "end", "count", "size")))
