"""Sums and means over the ranks of a distributed run; the identity in a single process."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["global_mean_count"]


def global_mean_count(count: Tensor) -> Tensor:
    """`count` averaged over the ranks and clamped to at least 1, float32, without a gradient.

    Losses are divided by it: then the gradients that DDP averages equal those of one process over the whole batch.
    """
    count = count.detach().float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        count = count.clone()
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp(min=1.0)
