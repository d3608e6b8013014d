"""Stochastic weight averaging, and batch-norm statistics estimated anew for weights that no step has trained."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vision.engine.device import autocast
from vision.engine.settings import SwaConfig

if TYPE_CHECKING:
    from vision.engine.trainer import Trainer

__all__ = ["WeightMean", "candidate_of", "with_new_batch_norm"]

SWA_IMAGES = 512  # images that give the mean of weights its batch-norm statistics, unless set


class WeightMean:
    """`module`, a copy of a model in evaluation mode with the plain mean of the weights it was shown.

    Stochastic weight averaging (arXiv:1803.05407, algorithm 1). Batch-norm statistics are averaged too, which is only
    a start: estimate them anew for the mean (`with_new_batch_norm`).
    """

    def __init__(self, model: nn.Module, config: SwaConfig | None = None):
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.config = config or SwaConfig(start=0.0)
        self.count = 0

    def offer(self, model: nn.Module, step: int, fraction: float, epoch_ended: bool) -> None:
        """Takes the weights after `step` steps, which are `fraction` of the run, when its settings say so."""
        every = self.config.every
        due = epoch_ended if every is None else not epoch_ended and step % every == 0
        if due and fraction >= self.config.start:
            self.update(model)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Lets the weights of `model` enter the mean."""
        self.count += 1
        theirs = model.state_dict()
        for name, mean in self.module.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(theirs[name].to(mean), 1 / self.count)
            else:
                mean.copy_(theirs[name])

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        self.module.load_state_dict(state["module"])


@torch.no_grad()
def with_new_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy of `model` whose batch norms hold the mean statistics over `batches` of images (B, C, H, W).

    "Precise batch norm" (arXiv:2105.07576, section 3): every batch counts alike, and the last ones no more than the
    first. In evaluation mode; the model itself when it has no batch norm. ValueError when there is no batch.
    """
    if not any(_tracks(module) for module in model.modules()):
        return model
    model = copy.deepcopy(model).eval()
    norms = [module for module in model.modules() if _tracks(module)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    seen = 0
    for images in batches:
        model(images)
        seen += 1
    if not seen:
        raise ValueError("with_new_batch_norm: no batch of images; give at least one")
    return model.eval()


def candidate_of(trainer: Trainer) -> nn.Module:
    """The model of a run to validate and keep, with new batch-norm statistics where its settings ask for them."""
    images = trainer.config.regularize.batch_norm_images
    if images is None:
        images = SWA_IMAGES if trainer.swa is not None and trainer.swa.count else 0
    if not images:
        return trainer.averaged
    trainer.loader.set_epoch(trainer.progress.epoch, combine=trainer.progress.combine)
    batches = math.ceil(images / (trainer.config.batch_size * trainer.accelerator.num_processes))
    seen = (batch.images.to(trainer.device) for batch in itertools.islice(trainer.loader, batches))
    with autocast(trainer.device, trainer.parts.precision):
        return with_new_batch_norm(trainer.averaged, seen)


def _tracks(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
