"""Joining the states of metrics, over the processes of torch.distributed too."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch

from vision.ops.reduce import is_distributed, world_size

__all__ = ["check_mergeable", "gather_states"]


def check_mergeable(one: Any, other: Any, *settings: str) -> None:
    """ValueError unless two metrics are of one kind, have the same classes and equal `settings` (names, dotted too)."""
    if type(one) is not type(other):
        raise ValueError(f"{type(one).__name__}.merge: a {type(other).__name__}; expected a {type(one).__name__}")
    if one.classes != other.classes:
        names = [", ".join(metric.classes.names[:5]) for metric in (other, one)]
        raise ValueError(
            f"{type(one).__name__}.merge: {len(other.classes)} classes ({names[0]}); expected the same "
            f"{len(one.classes)} ({names[1]})"
        )
    for name in settings:
        came, expected = map(attrgetter(name), (other, one))
        if came != expected:
            raise ValueError(f"{type(one).__name__}.merge: {name} {came!r}; expected {expected!r} as here")


def gather_states(state: Any) -> list[Any]:
    """Every process's state (tensors on the host), in the order of ranks; only one's own without torch.distributed."""
    if not is_distributed():
        return [state]
    states: list = [None] * world_size()
    torch.distributed.all_gather_object(states, state)
    return states
