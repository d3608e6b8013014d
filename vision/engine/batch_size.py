"""Batches that grow over a run, and the largest batch that fits into memory."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vision.data.memory import free_memory
from vision.engine.config import TrainConfig
from vision.engine.device import autocast
from vision.engine.log import progress_bar
from vision.engine.optim import LEARNING_RATES
from vision.engine.settings import BatchGrowthConfig
from vision.models import TrainStep, VisionModel

__all__ = ["BatchGrowth", "BatchGrowthConfig", "batch_limit", "choice_told", "fitting_batch_size", "largest_batch"]

SHARE = 0.85  # of the device's memory that a step may take: optimiser, averages and fragments need the rest
MOST_IMAGES, FEWEST_STEPS = 1024, 16  # of a batch and of an epoch that are chosen here


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

    Doubles from 1 up to `limit` itself, then halves the interval down to an eighth of what is known to work.
    `fits(size)` may refuse a size without trying (a CPU has no error to catch: see `cpu_fits`). ValueError when not
    even one image fits.
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
    while works(bad):
        good, bad = bad, min(bad * 2, limit)
        if good == limit:
            return limit
    if good == 0:
        raise ValueError("auto_batch: one image does not fit into memory; use a smaller image_size or model")
    while bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        if works(middle):
            good = middle
        else:
            bad = middle
    return good


def batch_limit(images: int, accumulate: int = 1) -> int:
    """The largest batch to choose for `images` images a process: one that leaves an epoch 16 optimiser steps, at most
    1024; in a smaller data set 2, since a batch norm has nothing to compare a single image with."""
    return min(MOST_IMAGES, max(images // (FEWEST_STEPS * accumulate), min(2, images)))


def choice_told(size: int, limit: int, images: int, config: TrainConfig) -> str:
    """What `auto_batch` chose for `images` images a process, why, and what that means for the learning rate."""
    steps = math.ceil(images // size / config.accumulate)  # of full batches
    why = "all that fits into memory" if size < limit else "the most that auto_batch takes of this data set"
    lr = LEARNING_RATES[config.optim.name] if config.optim.lr is None else config.optim.lr
    rule, factor = "square-root", math.sqrt(size / config.batch_size)
    if config.optim.name == "sgd":
        rule, factor = "linear", size / config.batch_size
    return (
        f"batches of {size}, {why}: {images} images are {steps} steps an epoch. optim.lr stays {lr:g}; if it was meant "
        f"for batches of {config.batch_size}, the {rule} rule makes it {lr * factor:.2g}"
    )


def fitting_batch_size(
    model: VisionModel,
    load: Callable[[int], Any],
    device: torch.device,
    precision: str,
    limit: int,
    *,
    progress: bool = False,
) -> int:
    """The largest batch that a training step of `model` fits into the memory of `device`; the model is left as it was.

    `load(size)` -> a Batch of that many images. On a GPU steps are tried; on a CPU, which has no error to catch, the
    memory that one image's step keeps for its gradients is measured, doubled, and compared with what is free.
    """
    twin = copy.deepcopy(model).to(device).train()
    with progress_bar(0, "auto_batch", progress) as bar:

        def attempt(size: int) -> None:
            bar.set_postfix_str(f"{size} images")
            _step(twin, load(size).to(device), device, precision)
            bar.update()

        if device.type == "cuda":
            return largest_batch(attempt, limit=limit)
        held: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            attempt(1)
    return largest_batch(lambda size: None, limit=limit, fits=cpu_fits(2.0 * sum(held.values())))


def _step(model: VisionModel, batch: Any, device: torch.device, precision: str) -> None:
    """Forward and backward pass. OutOfMemoryError also when more of a GPU is taken than its share."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with autocast(device, precision):
        losses = TrainStep(model)(batch.images, batch.targets)
    sum(losses.values()).backward()
    model.zero_grad(set_to_none=True)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        if torch.cuda.max_memory_reserved(device) > SHARE * total:
            raise torch.OutOfMemoryError("more than may be used beside optimiser and averages")


def cpu_fits(per_image: float, *, share: float = 0.8) -> Callable[[int], bool]:
    """For `largest_batch` on a CPU: whether a batch of images of `per_image` bytes each stays within free memory."""
    free = free_memory()
    return lambda size: size * per_image <= share * free
