"""Validation during training, and which weights are kept: `best.safetensors` and `results.md`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vision.engine.checkpoint import save
from vision.engine.config import TrainConfig
from vision.engine.files import write_text
from vision.models import VisionModel

if TYPE_CHECKING:
    from vision.engine.evaluate import Evaluation

__all__ = ["Selection", "broadcast_buffers", "keep", "validate", "validation_interval"]

VALIDATIONS, VALIDATIONS_ON_BUDGET = 10, 4


def validation_interval(config: TrainConfig, epochs: int) -> int:
    """Epochs from one validation to the next."""
    count = VALIDATIONS_ON_BUDGET if config.cpu_seconds else VALIDATIONS
    return config.validate_every or max(1, epochs // count)


@dataclass
class Selection:
    """The best result so far; saved with the run."""

    value: float | None = None
    name: str = ""
    epoch: int = -1
    waited: int = 0  # validations since
    metrics: dict[str, Any] = field(default_factory=dict)

    def offer(self, value: float, name: str, epoch: int, metrics: dict[str, Any]) -> bool:
        """Whether `value` is better than all before it."""
        if self.value is not None and value <= self.value:
            self.waited += 1
            return False
        self.value, self.name, self.epoch, self.metrics, self.waited = value, name, epoch, metrics, 0
        return True


def validate(model: VisionModel, dataset: Any, config: TrainConfig, accelerator: Any, precision: str) -> Evaluation:
    """The metrics of `model` on the validation split, over all processes; the same result on each."""
    from vision.engine.evaluate import evaluate

    was_training = model.training
    evaluation = evaluate(
        model,
        dataset,
        batch_size=config.batch_size,
        workers=config.workers or 0,
        device=str(accelerator.device),
        precision=precision,
        progress=accelerator.is_main_process,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    model.train(was_training)
    return evaluation


def keep(model: VisionModel, folder: Path, evaluation: Evaluation | None, epoch: int, step: int) -> None:
    """Writes the weights, their metric in the header, and the tables."""
    metric = {"epoch": epoch, "step": step}
    text = f"# Results\n\nTrained {epoch} epochs ({step} steps); there is no validation split.\n"
    if evaluation is not None:
        name, value = evaluation.headline
        metric |= {name: value, "split": evaluation.description.get("split")}
        text = evaluation.markdown().replace("# Evaluation", "# Results", 1)
        text = text.replace("\n\n", f"\n\n- weights: best.safetensors, epoch {epoch}, step {step}\n", 1)
    save(model, folder / "best.safetensors", metric=metric)
    write_text(folder / "results.md", text)


def broadcast_buffers(*models: torch.nn.Module) -> None:
    """Gives every process the first one's buffers: running statistics drift apart between forward passes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for model in models:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)
