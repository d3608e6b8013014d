"""Skipping a step without asking the device: what undoes it there, and what tells the host about it a step later."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from vision.ops.reduce import is_distributed

__all__ = ["Verdict", "agreed", "asks_late", "put_back_if", "step_unless", "undone_if"]

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def asks_late(device: torch.device, scaler: torch.amp.GradScaler) -> bool:
    """Whether a step is skipped on the device, and the host learns of it during the next one: waiting would leave a GPU
    without work. A scaler (fp16) asks by itself."""
    return device.type == "cuda" and not scaler.is_enabled()


@torch.no_grad()
def agreed(*flags: Tensor | bool, device: torch.device) -> Tensor:
    """(K,) float32 on `device`: 1 for each flag that is true on any process, so that all of them do the same."""
    values = torch.stack(
        [
            flag.float().reshape(()) if isinstance(flag, Tensor) else torch.full((), float(flag), device=device)
            for flag in flags
        ]
    )
    if is_distributed():
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
    return values


class Verdict:
    """The flags of a step on their way to the host; `read` waits for them, not for what was queued after them."""

    def __init__(self, flags: Tensor):
        self._values, self._event = flags, None
        if flags.is_cuda:
            self._values = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
            self._values.copy_(flags, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> list[bool]:
        if self._event is not None:
            self._event.synchronize()
        return [value > 0 for value in self._values.tolist()]


@torch.no_grad()
def put_back_if(bad: Tensor, tensors: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    """Copies `kept` into `tensors`, of the same shapes and types, where `bad` (a 0-dim flag) is true.

    Decided on the device, in a few launches whatever their number: bit patterns are multiplied by 0 or 1 as integers,
    since a NaN times 0 would stay one.
    """
    groups: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for tensor, old in zip(tensors, kept):
        integer = _INTEGERS[tensor.element_size()]
        now, before = groups.setdefault((tensor.device, integer), ([], []))
        now.append(tensor.detach().view(integer))
        before.append(old.view(integer))
    for (device, integer), (now, before) in groups.items():
        undo = (bad > 0).to(device=device, dtype=integer)
        torch._foreach_mul_(now, 1 - undo)
        torch._foreach_add_(now, torch._foreach_mul(before, undo))


@contextlib.contextmanager
def undone_if(bad: Tensor, tensors: Sequence[Tensor]) -> Iterator[None]:
    """What happens to `tensors` within is undone where `bad` is true; costs a copy of them."""
    kept = [tensor.detach().clone() for tensor in tensors]
    yield
    put_back_if(bad, tensors, kept)


def step_unless(bad: Tensor, optimizer: Optimizer) -> None:
    """One step, or none where `bad` (a 0-dim flag) is true, decided on the device.

    Fused SGD, Adam and AdamW look at the flag themselves; others step and are put back. The first step, which sets up
    the state, asks the device.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    stateless = isinstance(optimizer, SGD) and not any(group["momentum"] for group in optimizer.param_groups)
    if not stateless and any(parameter not in optimizer.state for parameter in parameters):
        if not bad:
            optimizer.step()
        return
    if isinstance(optimizer, SGD | Adam) and all(group["fused"] for group in optimizer.param_groups):
        optimizer.grad_scale, optimizer.found_inf = None, bad.float()
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale, optimizer.found_inf
        return
    state = [value for p in parameters for value in optimizer.state[p].values() if isinstance(value, Tensor)]
    with undone_if(bad, [*parameters, *state]):
        optimizer.step()
