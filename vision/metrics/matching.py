"""Greedy matching of detections and ground truths, for all images, classes, area ranges and IoU thresholds at once.

The COCO rule: detections choose by falling score; each takes the free ground truth of highest IoU, one that counts
before one that is ignored, the later among equals; a crowd may be taken any number of times.

That loop is run as deferred acceptance: every detection proposes to its best ground truth, a ground truth keeps the
proposer that comes first, the others go on to their next choice. As all ground truths rank detections alike, there is
one stable matching, and the loop's result is it. A handful of rounds finishes every group together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vision.metrics.overlap import Pairs

__all__ = ["Matches", "match"]


@dataclass(frozen=True)
class Matches:
    """One row for each match: threshold, area (index of the range), found, truth (M,) int64; ordered by these."""

    threshold: Tensor
    area: Tensor
    found: Tensor
    truth: Tensor


def match(pairs: Pairs, ignored: Tensor, crowd: Tensor, thresholds: Tensor) -> Matches:
    """Match detections (rising index = falling preference of every ground truth) with ground truths.

    pairs as from one detection's view all its candidates; ignored (A, G) bool by area range; crowd (G,) bool;
    thresholds (T,) float64, IoU >= threshold matches.
    """
    ranges, number = ignored.shape
    preference = _preference(pairs, ignored).flatten()  # (A * P,)
    cases, candidates = len(thresholds) * ranges, len(pairs.found)
    valid = pairs.overlap.index_select(0, preference).view(ranges, -1) >= thresholds[:, None, None]  # (T, A, P)
    counts = valid.sum(-1).flatten()
    size = int(counts.sum())
    case = torch.arange(cases, device=counts.device)
    entry_case = torch.repeat_interleave(case, counts, output_size=size)
    skipped = torch.repeat_interleave(case // ranges * (ranges * candidates), counts, output_size=size)
    pair = preference[valid.flatten().nonzero()[:, 0] - skipped]
    found, truth = pairs.found.index_select(0, pair), pairs.truth.index_select(0, pair)
    slot = entry_case * number + truth
    if bool(crowd.any()):  # a crowd has room for all: each of its proposals gets a slot of its own
        slot = torch.where(crowd.index_select(0, truth), cases * number + torch.arange(size, device=pair.device), slot)
    begins = torch.ones(size + 1, dtype=torch.bool, device=pair.device)
    begins[1:-1] = (found[1:] != found[:-1]) | (entry_case[1:] != entry_case[:-1])
    holder = torch.full((cases * number + size,), size, device=pair.device)
    proposals = begins[:-1].nonzero()[:, 0]
    while len(proposals):
        asked = slot.index_select(0, proposals)
        before = holder.index_select(0, asked)
        holder.scatter_reduce_(0, asked, proposals, "amin")
        won = holder.index_select(0, asked) == proposals
        displaced = before[won & (before < size)]
        following = torch.cat([proposals[~won], displaced]) + 1
        proposals = following[~begins[following]]
    kept = holder[holder < size].sort().values
    case = entry_case.index_select(0, kept)
    threshold = torch.div(case, ranges, rounding_mode="floor")
    return Matches(threshold, case - threshold * ranges, found.index_select(0, kept), truth.index_select(0, kept))


def _preference(pairs: Pairs, ignored: Tensor) -> Tensor:
    """Order of the pairs in which detections rise and each one's candidates fall, for each area range (A, P)."""
    backward = torch.arange(len(pairs.found) - 1, -1, -1, device=pairs.found.device)
    best = backward[pairs.overlap[backward].argsort(descending=True, stable=True)]
    best = best[pairs.found.index_select(0, best).argsort(stable=True)]
    choice, truth = pairs.found.index_select(0, best) * 2, pairs.truth.index_select(0, best)
    return torch.stack([best[(choice + row.index_select(0, truth)).argsort(stable=True)] for row in ignored])
