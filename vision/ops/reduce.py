"""Sums and means over the processes of a distributed run; the identity in a single one."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["global_mean_count", "is_distributed", "sum_over_processes", "world_size"]


def is_distributed() -> bool:
    """Whether this process is one of torch.distributed's."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def world_size() -> int:
    """Processes of this run; 1 without torch.distributed."""
    return torch.distributed.get_world_size() if is_distributed() else 1


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of every process's tensor; the tensor itself without torch.distributed."""
    if not is_distributed():
        return value
    # gloo adds on the host, nccl on the GPU
    total = value.cuda() if torch.distributed.get_backend() == "nccl" else value.cpu()
    total = total.clone()
    torch.distributed.all_reduce(total)
    return total.to(value.device)


def global_mean_count(count: Tensor) -> Tensor:
    """`count` averaged over the ranks and clamped to at least 1, float32, without a gradient.

    Losses are divided by it: then the gradients that DDP averages equal those of one process over the whole batch.
    """
    count = count.detach().float()
    if is_distributed():
        count = count.clone()
        torch.distributed.all_reduce(count)
        count = count / world_size()
    return count.clamp(min=1.0)
