"""Adding up the states of metrics, over the processes of torch.distributed too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["check_mergeable", "gather_objects", "sum_over_processes"]


def check_mergeable(one: Any, other: Any, *settings: str) -> None:
    """ValueError unless two metrics have the same classes and equal `settings`."""
    if one.classes != other.classes:
        names = [", ".join(metric.classes.names[:5]) for metric in (other, one)]
        raise ValueError(
            f"{type(one).__name__}.merge: {len(other.classes)} classes ({names[0]}); expected the same "
            f"{len(one.classes)} ({names[1]})"
        )
    for name in settings:
        came, expected = getattr(other, name), getattr(one, name)
        if came != expected:
            raise ValueError(f"{type(one).__name__}.merge: {name} {came!r}; expected {expected!r} as here")


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of every process's tensor; the tensor itself without torch.distributed."""
    if not _distributed():
        return value
    # gloo adds on the host, nccl on the GPU
    total = value.cuda() if torch.distributed.get_backend() == "nccl" else value.cpu()
    total = total.clone()
    torch.distributed.all_reduce(total)
    return total.to(value.device)


def gather_objects(state: Any) -> list[Any]:
    """Every process's state (tensors on the host), in the order of ranks; only one's own without torch.distributed."""
    if not _distributed():
        return [state]
    states: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, state)
    return states
