"""Batches that grow over a run, and the largest batch that fits into memory."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vision.engine.device import autocast
from vision.engine.settings import BatchGrowthConfig
from vision.models import TrainStep, VisionModel

__all__ = ["BatchGrowth", "BatchGrowthConfig", "fitting_batch_size", "largest_batch"]

SHARE = 0.85  # of the device's memory that a step may take: optimiser, averages and fragments need the rest


class BatchGrowth:
    """How many batches make an optimiser step in each epoch, and what that does to the learning rate.

    `first` batches are accumulated at the start of a run of `epochs` epochs; after each share in `config.at` the
    number is multiplied by `config.factor`.
    """

    def __init__(self, config: BatchGrowthConfig, first: int, epochs: int):
        self.config, self.first, self.epochs = config, first, epochs

    def growth(self, epoch: int) -> int:
        """The batch in `epoch`, counted from 0, relative to the first epoch's."""
        passed = sum(epoch >= round(share * self.epochs) for share in self.config.at)
        return self.config.factor**passed

    def accumulate(self, epoch: int) -> int:
        """Batches of one optimiser step in `epoch`."""
        return self.first * self.growth(epoch)

    def lr_factor(self, epoch: int) -> float:
        """By the rule: 1, sqrt k or k for a batch k times the first."""
        power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[self.config.rule]
        return self.growth(epoch) ** power

    def steps(self, batches: int) -> int:
        """Optimiser steps of the whole run when an epoch has `batches` batches."""
        return sum(math.ceil(batches / self.accumulate(epoch)) for epoch in range(self.epochs))


def largest_batch(
    attempt: Callable[[int], None], *, limit: int = 1024, fits: Callable[[int], bool] | None = None
) -> int:
    """The largest batch size up to `limit` for which `attempt(size)`, a training step, does not run out of memory.

    Doubles from 1, then halves the interval down to multiples of an eighth of it. `fits(size)` may refuse a size
    without trying (a CPU has no error to catch: see `cpu_fits`). ValueError when not even one image fits.
    """

    def works(size: int) -> bool:
        if fits is not None and not fits(size):
            return False
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            return False
        finally:
            if torch.cuda.is_available():
                gc.collect()
                torch.cuda.empty_cache()
        return True

    good, bad = 0, 1
    while bad <= limit and works(bad):
        good, bad = bad, bad * 2
    if good == 0:
        raise ValueError("auto_batch: one image does not fit into memory; use a smaller image_size or model")
    bad = min(bad, limit + 1)
    while bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        if works(middle):
            good = middle
        else:
            bad = middle
    return good


def fitting_batch_size(
    model: VisionModel, load: Callable[[int], Any], device: torch.device, precision: str, limit: int
) -> int:
    """The largest batch that a training step of `model` fits into the memory of `device`; the model is left as it was.

    `load(size)` -> a Batch of that many images. On a GPU steps are tried; on a CPU, which has no error to catch, the
    memory that one image's step keeps for its gradients is measured, doubled, and compared with what is free.
    """
    twin = copy.deepcopy(model).to(device).train()

    def attempt(size: int) -> None:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        batch = load(size).to(device)
        with autocast(device, precision):
            losses = TrainStep(twin)(batch.images, batch.targets)
        sum(losses.values()).backward()
        twin.zero_grad(set_to_none=True)
        if device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            if torch.cuda.max_memory_reserved(device) > SHARE * total:
                raise torch.OutOfMemoryError("more than may be used beside optimiser and averages")

    if device.type == "cuda":
        return largest_batch(attempt, limit=limit)
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attempt(1)
    return largest_batch(lambda size: None, limit=limit, fits=cpu_fits(2.0 * sum(held.values())))


def cpu_fits(per_image: float, *, share: float = 0.8) -> Callable[[int], bool]:
    """For `largest_batch` on a CPU: whether a batch of images of `per_image` bytes each stays within free memory."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return lambda size: size * per_image <= share * free
