"""Validation during training, and which weights are kept: `best.safetensors` and `results.md`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vision.engine.checkpoint import save
from vision.engine.config import TrainConfig
from vision.engine.device import choose_workers
from vision.engine.files import write_text
from vision.models import VisionModel
from vision.ops.reduce import is_distributed

if TYPE_CHECKING:
    from vision.engine.evaluate import Evaluation
    from vision.engine.state import Progress
    from vision.engine.trainer import Trainer

__all__ = ["Selection", "broadcast_buffers", "keep", "validate", "validation_is_due", "validation_reserve"]

VALIDATIONS, VALIDATIONS_ON_BUDGET = 10, 4
VALIDATION_SHARE = 0.5  # cost of an image in validation relative to training, until it has been measured


def validation_interval(config: TrainConfig, epochs: int) -> int:
    """Epochs from one validation to the next."""
    count = VALIDATIONS_ON_BUDGET if config.cpu_seconds else VALIDATIONS
    return config.validate_every or max(1, epochs // count)


def validation_is_due(trainer: Trainer) -> bool:
    """Whether the epoch that has just ended is followed by a validation; the last one always is."""
    if trainer.parts.val_dataset is None:
        return False
    if trainer.plan.total == 0:  # a run on a budget that has not been measured yet
        return trainer.is_finished
    interval = validation_interval(trainer.config, trainer.plan.epochs)
    return trainer.is_finished or trainer.progress.epoch % interval == 0


def validation_reserve(trainer: Trainer) -> float:
    """Seconds that the validations to come will take."""
    dataset, progress, spending = trainer.parts.val_dataset, trainer.progress, trainer.spending
    if dataset is None or not progress.step:
        return 0.0
    interval = validation_interval(trainer.config, trainer.plan.epochs)
    left = max(1, math.ceil((trainer.plan.epochs - progress.epoch) / interval))
    if progress.validations:
        return left * spending.validation / progress.validations
    per_image = (spending.so_far() - spending.validation) / max(progress.images, 1)
    return left * len(dataset) * per_image * VALIDATION_SHARE


@dataclass
class Selection:
    """The best result so far, or the latest as long as there is none; saved with the run."""

    value: float | None = None  # None while no validation had a finite one
    name: str = ""
    epoch: int = -1
    waited: int = 0  # validations since
    metrics: dict[str, Any] = field(default_factory=dict)

    def offer(self, value: float, name: str, epoch: int, metrics: dict[str, Any], sign: int = 1) -> bool:
        """Whether the weights with `value` are to be kept: `sign` * value is as large as before or larger, or there is
        none yet. Of equals the later ones have learnt more, but the wait goes on.

        A value that is not finite says nothing about the weights: it is neither better nor counted as waiting.
        """
        defined = math.isfinite(value)
        better = self.value is None or (defined and sign * value > sign * self.value)
        self.waited = 0 if better else self.waited + defined
        if not better and value != self.value:
            return False
        self.value, self.name, self.epoch, self.metrics = value if defined else None, name, epoch, metrics
        return True

    def told(self, name: str, value: float) -> str:
        """`value` beside the best so far, for the log."""
        best = "none so far is finite: the latest weights are kept"
        if self.value is not None:
            best = f"best {self.value:.4f} after epoch {self.epoch}"
        return f"{name} {'undefined' if math.isnan(value) else format(value, '.4f')} ({best})"


def validate(
    model: VisionModel, dataset: Any, config: TrainConfig, accelerator: Any, precision: str, analyse: bool = False
) -> Evaluation:
    """The metrics of `model` on the validation split, over all processes; the same result on each."""
    from vision.engine.evaluate import evaluate

    was_training = model.training
    evaluation = evaluate(
        model,
        dataset,
        batch_size=config.batch_size,
        workers=choose_workers(config.workers, accelerator.device, accelerator.num_processes),
        device=str(accelerator.device),
        precision=precision,
        analyse=analyse,
        progress=accelerator.is_main_process,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    model.train(was_training)
    return evaluation


def keep(
    model: VisionModel,
    folder: Path,
    evaluation: Evaluation | None,
    progress: Progress,
    figure: tuple[str, float] | None = None,
) -> None:
    """Writes the weights, their metric in the header, and the tables; `figure`: what they were chosen by."""
    metric: dict[str, Any] = {"epoch": progress.epoch, "step": progress.step}
    text = f"# Results\n\nTrained {progress.epoch} epochs ({progress.step} steps); there is no validation split.\n"
    if evaluation is not None:
        figures = dict([evaluation.headline, figure or evaluation.headline])
        metric |= {name: value if math.isfinite(value) else None for name, value in figures.items()}
        metric["split"] = evaluation.description.get("split")
        weights = f"best.safetensors, epoch {progress.epoch}, step {progress.step}"
        if figure is not None and not math.isfinite(figure[1]):
            weights += f", the latest: no validation had a finite {figure[0]} to choose by"
        text = evaluation.markdown().replace("# Evaluation", "# Results", 1)
        text = text.replace("\n\n", f"\n\n- weights: {weights}\n", 1)
    save(model, folder / "best.safetensors", metric=metric)
    write_text(folder / "results.md", text)


def broadcast_buffers(*models: torch.nn.Module) -> None:
    """Gives every process the first one's buffers: running statistics drift apart between forward passes."""
    if is_distributed():
        for model in models:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)
