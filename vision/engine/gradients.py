"""Gradients of the mean loss of several batches."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from vision.engine.device import autocast
from vision.structures import Batch

__all__ = ["accumulate_gradients"]


def accumulate_gradients(
    train_step: nn.Module, batches: list[Batch], accelerator: Any, scaler: torch.amp.GradScaler, precision: str
) -> dict[str, Tensor]:
    """Adds the (scaled) gradients of the batches' mean loss to the parameters; the losses by name, detached.

    Processes exchange gradients in the last backward pass only.
    """
    losses: dict[str, Tensor] = {}
    for number, batch in enumerate(batches, 1):
        last = number == len(batches)
        with contextlib.nullcontext() if last else accelerator.no_sync(train_step):
            with autocast(accelerator.device, precision):
                parts = train_step(batch.images, batch.targets)
            scaler.scale(sum(parts.values()) / len(batches)).backward()
        for name, value in parts.items():
            losses[name] = losses.get(name, 0) + value.detach() / len(batches)
    return losses
