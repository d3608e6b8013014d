"""Which detections meet which ground truths: sorting into (class, image) groups, candidate pairs, and their IoU.

Everything is float64 and follows the order of operations of pycocotools, so that equal input gives equal bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from vision.metrics.bands import boundary_bands
from vision.metrics.runs import Runs, intersections

__all__ = ["Found", "Pairs", "Truth", "box_overlap", "candidate_pairs", "mask_overlap", "overlapping_pairs"]

_PAIRS = 1 << 20  # held at once, at some 130 bytes each


@dataclass(frozen=True)
class _Objects:
    """masks: Runs, or None for boxes alone; mask (N,) int64: which of them each object has (by default its own number).

    Selecting moves the numbers, not the runs.
    """

    image: Tensor
    label: Tensor

    def __post_init__(self) -> None:
        if self.masks is not None and self.mask is None:
            object.__setattr__(self, "mask", torch.arange(len(self.masks), device=self.image.device))

    def __len__(self) -> int:
        return len(self.image)

    def select(self, index: Tensor) -> Self:
        """The objects that `index` (M,) names, in that order."""
        columns = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "masks"}
        return replace(
            self, **{name: value if value is None else value.index_select(0, index) for name, value in columns.items()}
        )


@dataclass(frozen=True)
class Found(_Objects):
    """Detections of many images, flat: image (D,) int64 · label (D,) int64 · score (D,) float64 · box (D, 4) float64
    x, y, width, height · area (D,) float64 · masks and mask as above."""

    score: Tensor
    box: Tensor
    area: Tensor
    masks: Runs | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Truth(_Objects):
    """Ground truths, flat, as in `Found`; crowd (G,) bool: takes any number of detections, never counted ·
    unmatchable (G,) bool: a match with it counts as none (annotation id 0 in pycocotools) · difficult (G,) bool: what
    VOC leaves out; COCO's rules do not know it."""

    box: Tensor
    area: Tensor
    crowd: Tensor
    unmatchable: Tensor
    difficult: Tensor
    masks: Runs | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Pairs:
    """Detection and ground truth of one (class, image) group, and their IoU: found, truth (P,) int64, overlap (P,)
    float64; ordered by detection, then ground truth."""

    found: Tensor
    truth: Tensor
    overlap: Tensor


def candidate_pairs(found_group: Tensor, truth_group: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All (detection, ground truth) index pairs whose groups are equal, some `_PAIRS` at a time; `truth_group` is
    sorted."""
    low = torch.searchsorted(truth_group, found_group)
    count = torch.searchsorted(truth_group, found_group, right=True) - low
    ends = count.cumsum(0)
    number = int(ends[-1]) if len(ends) else 0
    steps = torch.arange(_PAIRS, max(number, _PAIRS), _PAIRS, device=ends.device)
    bounds = [0, *torch.searchsorted(ends, steps, right=True).tolist(), len(ends)]
    for start, stop in pairwise(bounds):
        found = torch.repeat_interleave(count[start:stop])
        shift = low[start:stop] - (count[start:stop].cumsum(0) - count[start:stop])
        yield start + found, torch.arange(len(found), device=found.device) + shift.index_select(0, found)


def overlapping_pairs(found: Found, truth: Truth, groups: tuple[Tensor, Tensor], kind: str, at_least: float) -> Pairs:
    """Pairs whose groups (D,) and (G,) are equal and whose IoU reaches `at_least` > 0; the truths' groups rise.

    kind: "bbox", "segm", or "boundary": the lesser of the masks' IoU and that of the bands along their outlines. Of a
    crowd the IoU is intersection / detection area (of whole masks).
    """
    parts = [_near_pairs(found, truth, *pairs, kind, at_least) for pairs in candidate_pairs(*groups)]
    return Pairs(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Pairs)))


def _near_pairs(found: Found, truth: Truth, first: Tensor, second: Tensor, kind: str, at_least: float) -> Pairs:
    """Those of the pairs (first, second) whose IoU reaches `at_least`."""
    crowd = truth.crowd.index_select(0, second)
    if kind == "bbox":
        overlap = box_overlap(found.box.index_select(0, first), truth.box.index_select(0, second), crowd)
    else:
        pairs = (found.mask.index_select(0, first), truth.mask.index_select(0, second))
        overlap = mask_overlap(found.masks, truth.masks, *pairs, crowd, at_least)
        if kind == "boundary":
            near = ((overlap >= at_least) & ~crowd).nonzero()[:, 0]
            overlap[near] = torch.minimum(
                overlap.index_select(0, near),
                _band_overlap(found.masks, truth.masks, *(p.index_select(0, near) for p in pairs)),
            )
    near = (overlap >= at_least).nonzero()[:, 0]
    return Pairs(first.index_select(0, near), second.index_select(0, near), overlap.index_select(0, near))


def box_overlap(found: Tensor, truth: Tensor, crowd: Tensor) -> Tensor:
    """IoU of boxes (P, 4) x, y, width, height with their partners, intersection / detection area for crowds."""
    x, y, width, height = found.unbind(-1)
    other_x, other_y, other_width, other_height = truth.unbind(-1)
    across = torch.minimum(width + x, other_width + other_x) - torch.maximum(x, other_x)
    down = torch.minimum(height + y, other_height + other_y) - torch.maximum(y, other_y)
    meet = across * down
    area = width * height
    union = torch.where(crowd, area, area + other_width * other_height - meet)
    return torch.where((across > 0) & (down > 0), meet / union, 0.0)


def mask_overlap(
    found: Runs, truth: Runs, pair_found: Tensor, pair_truth: Tensor, crowd: Tensor, at_least: float
) -> Tensor:
    """IoU of mask pairs (P,), 0 where it is surely below `at_least`; crowd (P,): intersection / detection area.

    Only pairs whose boxes meet in enough pixels are counted out: the intersection is at most the common box, and at
    most either mask.
    """
    area, other = found.area().index_select(0, pair_found), truth.area().index_select(0, pair_truth)
    first, second = found.boxes().index_select(0, pair_found), truth.boxes().index_select(0, pair_truth)
    low, high = (
        torch.maximum(first[:, :2], second[:, :2]),
        torch.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:]),
    )
    bound = torch.minimum((high - low).clamp(min=0).prod(1), torch.minimum(area, other))
    hopeful = (_ratio(bound, area, other, crowd) >= at_least).nonzero()[:, 0]
    meet = intersections(found, truth, pair_found.index_select(0, hopeful), pair_truth.index_select(0, hopeful))
    overlap = torch.zeros(len(pair_found), dtype=torch.float64, device=pair_found.device)
    overlap[hopeful] = _ratio(
        meet, area.index_select(0, hopeful), other.index_select(0, hopeful), crowd.index_select(0, hopeful)
    )
    return overlap


def _band_overlap(found: Runs, truth: Runs, pair_found: Tensor, pair_truth: Tensor) -> Tensor:
    """IoU of the bands along the outlines of mask pairs (P,) float64."""
    used, first = pair_found.unique(return_inverse=True)
    other_used, second = pair_truth.unique(return_inverse=True)
    bands, other_bands = boundary_bands(found.select(used)), boundary_bands(truth.select(other_used))
    meet = intersections(bands, other_bands, first, second)
    return _ratio(
        meet,
        bands.area().index_select(0, first),
        other_bands.area().index_select(0, second),
        torch.zeros_like(meet, dtype=torch.bool),
    )


def _ratio(meet: Tensor, area: Tensor, other: Tensor, crowd: Tensor) -> Tensor:
    union = torch.where(crowd, area, area + other - meet)
    return torch.where(meet > 0, meet.double() / union.clamp(min=1).double(), 0.0)
