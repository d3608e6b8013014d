"""The state of a training run in `last.pt`: enough to go on as if nothing had happened, readable without trust.

Random numbers need no state: an optimiser step seeds torch from (seed, step, rank), a sample is augmented from
(seed, epoch, position), so that both follow from the step and epoch that are kept.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vision.engine.checkpoint import header_of, read_state
from vision.engine.files import write_file

if TYPE_CHECKING:
    from vision.engine.trainer import Trainer

__all__ = ["Progress", "capture", "load_state", "restore", "save_state", "seed_step"]


@dataclass
class Progress:
    """Where the run stands; all of it is saved and restored."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    combine: bool = True  # whether this epoch has mosaic, mixup and copy-paste
    images: int = 0
    work: float = 0.0  # steps, counted by the pixels of their images relative to full-size ones
    validations: int = 0


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values to `path`, whole or not at all. OSError leaves the previous file as it was."""
    write_file(path, lambda file: torch.save(state, file))


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote. ValueError when it is missing or is something else."""
    if not Path(path).is_file():
        raise ValueError(f"resume: {path} is not there; a run goes on from it alone. Start it anew under another name")
    return read_state(path)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch, on all devices, for one optimiser step of one process."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1)))


def capture(trainer: Trainer) -> dict[str, Any]:
    """Everything that `restore` needs, as tensors and plain values."""
    model = trainer.model
    return {
        "header": header_of(model),
        "model": model.state_dict(),
        "ema": None if trainer.ema is None else trainer.ema.module.state_dict(),
        "ema_updates": 0 if trainer.ema is None else trainer.ema.updates,
        "swa": None if trainer.swa is None else trainer.swa.state_dict(),
        "optimizer": trainer.parts.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "schedule": trainer.schedule.state_dict(),
        "plan": trainer.plan.state_dict(),
        "progress": asdict(trainer.progress),
        "selection": asdict(trainer.selection),
        "spending": asdict(trainer.spending),
    }


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Puts a captured state back. ValueError when it is of another model or data set."""
    arguments, own = state["header"]["model"], dict(trainer.model.arguments)
    if arguments != own:
        raise ValueError(f"resume: the checkpoint is of {arguments}, the run of {own}; start a new run")
    names = tuple(state["header"]["classes"]["names"])
    if names != trainer.model.classes.names:
        raise ValueError(
            f"resume: the checkpoint has the classes {', '.join(names)}, the data set now has "
            f"{', '.join(trainer.model.classes.names)}; restore the data set, or start a new run"
        )
    trainer.model.load_state_dict(state["model"])
    if trainer.ema is not None:
        trainer.ema.load_state_dict({"module": state["ema"], "updates": state["ema_updates"]})
    if trainer.swa is not None:
        trainer.swa.load_state_dict(state["swa"])
    trainer.parts.optimizer.load_state_dict(state["optimizer"])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.schedule.load_state_dict(state["schedule"])
    trainer.plan.load_state_dict(state["plan"])
    for name in ("progress", "selection", "spending"):
        setattr(trainer, name, type(getattr(trainer, name))(**state[name]))
