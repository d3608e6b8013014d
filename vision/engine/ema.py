"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """`module`, a copy of a model in evaluation mode whose weights follow the model's (Polyak averaging).

    After update t the share kept of the average is decay * (1 - exp(-t / warmup)), so that the random start is soon
    forgotten; warmup = 0 uses `decay` at once. Floating-point buffers (batch-norm statistics) are averaged as the
    weights are, others copied.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9998, warmup: float = 2000.0):
        if not 0 <= decay < 1:
            raise ValueError(f"MovingAverage: decay {decay}; expected 0 up to, not including, 1")
        if warmup < 0:
            raise ValueError(f"MovingAverage: warmup {warmup}; expected 0 or more updates")
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.warmup, self.updates = decay, warmup, 0

    @property
    def current_decay(self) -> float:
        """The share of the average that the latest update kept."""
        if self.warmup == 0:
            return self.decay
        return self.decay * (1 - math.exp(-self.updates / self.warmup))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`, the model averaged so far (not its DDP or compiled wrapper)."""
        self.updates += 1
        averages, values, others = _matched(self.module, model)
        torch._foreach_lerp_(averages, values, 1 - self.current_decay)
        for average, value in others:
            average.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.module.load_state_dict(state["module"])


def _matched(average: nn.Module, model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
    """The floating-point tensors of both, in one order, and the pairs of all others."""
    own, theirs = dict(_tensors(average)), dict(_tensors(model))
    if own.keys() != theirs.keys():
        strange = sorted(own.keys() ^ theirs.keys())
        raise ValueError(f"MovingAverage: the model is another one than was averaged so far; differs in {strange[:5]}")
    names = [name for name in own if own[name].is_floating_point()]
    others = [(own[name], theirs[name]) for name in own if not own[name].is_floating_point()]
    return [own[name] for name in names], [theirs[name].to(own[name]) for name in names], others


def _tensors(model: nn.Module):
    yield from model.named_parameters()
    yield from model.named_buffers()
