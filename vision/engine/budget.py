"""How long a run is: from epochs, from a number of optimiser steps, or from user-CPU seconds that may be spent."""

from __future__ import annotations

import math
import multiprocessing
import os
from pathlib import Path
from typing import Any

from vision.engine.config import TrainConfig

__all__ = ["CpuClock", "Plan"]

MEASURED_STEPS = 8  # after these the cost of a step is known well enough for a first plan
FEWEST_EPOCHS, MOST_EPOCHS = 30, 300


class CpuClock:
    """User-CPU seconds of this process and its data workers, on top of those that earlier calls of the run used."""

    def __init__(self, spent: float = 0.0):
        self._start = _user_seconds() - spent

    def seconds(self) -> float:
        return _user_seconds() - self._start


def _user_seconds() -> float:
    own = os.times()
    return own.user + own.children_user + sum(_of_process(child.pid) for child in multiprocessing.active_children())


def _of_process(pid: int | None) -> float:
    """User seconds of a living process from /proc; 0 where there is none, and then workers count when they end."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0.0
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


class Plan:
    """The number of optimiser steps of the run, `total`, and with it how far the run has come.

    With epochs (given, or chosen so that a small data set gets `min_steps`) it is known from the start. With
    `cpu_seconds` it follows from the measured cost of a step: first after a few steps, then again after every epoch,
    validation included; it is part of the saved state.
    """

    def __init__(self, config: TrainConfig, steps_per_epoch: int):
        self.budget = config.cpu_seconds
        self.steps_per_epoch = steps_per_epoch
        if self.budget:
            self.total = 0
        else:
            epochs = config.epochs or min(
                max(math.ceil(config.min_steps / steps_per_epoch), FEWEST_EPOCHS), MOST_EPOCHS
            )
            self.total = epochs * steps_per_epoch

    @property
    def epochs(self) -> int:
        """Epochs of the whole run, the last one perhaps in part; at least 1."""
        return max(1, math.ceil(self.total / self.steps_per_epoch))

    def measure(self, step: int, seconds: float, reserve: float = 0.0) -> None:
        """Sets the number of steps from `seconds` spent on `step` steps, keeping `reserve` seconds for validation."""
        if not self.budget or step < 1:
            return
        left = max(self.budget - seconds - reserve, 0.0)
        self.total = step + int(left * step / max(seconds, 1e-6))

    def is_due(self, step: int) -> bool:
        """Whether a run on a budget should be measured after this step, within an epoch."""
        return bool(self.budget) and step in (MEASURED_STEPS, 4 * MEASURED_STEPS)

    def is_spent(self, seconds: float) -> bool:
        return bool(self.budget) and seconds >= self.budget

    def fraction(self, step: int) -> float:
        """How much of the run lies behind `step`, 0 to 1; 0 while the length is not known."""
        return min(step / self.total, 1.0) if self.total else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "steps_per_epoch": self.steps_per_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["steps_per_epoch"] != self.steps_per_epoch:
            raise ValueError(
                f"resume: an epoch had {state['steps_per_epoch']} steps and now has {self.steps_per_epoch}; "
                "the data set or the number of processes has changed. Restore it, or start a new run"
            )
        self.total = state["total"]
