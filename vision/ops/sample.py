"""Balanced random samples of positives and negatives, of a fixed size, for a whole batch at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Sampled", "sample_balanced"]


class Sampled(NamedTuple):
    """places (B, N) int64, positives first · positive (B, N) bool · valid (B, N) bool: False where too few are."""

    places: Tensor
    positive: Tensor
    valid: Tensor


@torch.no_grad()
def sample_balanced(
    positive: Tensor,
    negative: Tensor,
    count: int,
    positive_fraction: float,
    generator: torch.Generator | None = None,
) -> Sampled:
    """`count` places of each image (fewer places: all), at most `positive_fraction` of them positive.

    positive and negative (B, P) bool; a place that is neither is never drawn. The rest, and where positives lack,
    are negatives; where both lack, the sample has slots that are not valid. Uniform without replacement; repeats
    exactly under a `generator` in the same state. Shapes depend on `count` and P alone.
    """
    # one random key a place: selected positives rank in [2, 3), negatives in [0, 1), everything else at -1
    draw = torch.rand(positive.shape, device=positive.device, generator=generator)
    count = min(count, positive.shape[1])
    most = min(int(count * positive_fraction), positive.shape[1])
    key = torch.where(negative, draw, -1.0)
    if most:
        rank, place = torch.where(positive, draw, -1.0).topk(most, dim=1)
        key = key.scatter(1, place, torch.where(rank >= 0, rank + 2, key.gather(1, place)))
    rank, place = key.topk(count, dim=1)
    return Sampled(place, rank >= 2, rank >= 0)
