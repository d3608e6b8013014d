"""How long a run is: from epochs, from a number of optimiser steps, or from user-CPU seconds that may be spent."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vision.engine.config import TrainConfig
from vision.ops.reduce import sum_over_processes, world_size

__all__ = ["Plan", "Spending", "early_work", "relative_work"]

MEASURED_STEPS = 8  # after these the cost of a step is known well enough for a first plan
FEWEST_EPOCHS, MOST_EPOCHS = 30, 300


@dataclass
class Spending:
    """User-CPU seconds of a run, its processes and their data workers together; saved with the run."""

    training: float = 0.0
    validation: float = 0.0

    def __post_init__(self) -> None:
        self._begun = _user_seconds()

    @property
    def total(self) -> float:
        return self.training + self.validation

    def begin(self) -> None:
        """A stretch of work starts here."""
        self._begun = _user_seconds()

    def so_far(self) -> float:
        """The total with the stretch in progress, as if every process had spent on it what this one has."""
        return self.total + (_user_seconds() - self._begun) * world_size()

    def end(self, kind: str) -> float:
        """Adds the stretch, summed over the processes, to "training" or "validation", and returns its seconds."""
        seconds = _summed(_user_seconds() - self._begun)
        setattr(self, kind, getattr(self, kind) + seconds)
        self._begun = _user_seconds()
        return seconds


def _summed(value: float) -> float:
    return float(sum_over_processes(torch.tensor(value, dtype=torch.float64)))


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


def relative_work(size: Sequence[int], config: TrainConfig) -> float:
    """What a step on images of size (height, width) costs relative to the run's full size."""
    height, width = config.input_size
    return size[0] * size[1] / (height * width)


def early_work(sizes: Sequence[Sequence[int]], config: TrainConfig) -> float:
    """Mean work of a step while the input varies among `sizes`; 1 when there are none."""
    return sum(relative_work(size, config) for size in sizes) / len(sizes) if sizes else 1.0


class Plan:
    """The number of optimiser steps of the run, `total`, and with it how far the run has come.

    With epochs (given, or chosen so that a small data set gets `min_steps`) it is known from the start. With
    `cpu_seconds` it follows from the measured cost of a step: first after a few steps, then again after every epoch.
    It is part of the saved state, so that a resumed run has the same schedule.
    """

    def __init__(self, config: TrainConfig, steps_per_epoch: int, early: float = 1.0):
        self.budget, self.plain_share, self.early = config.cpu_seconds, config.plain_share, early
        self._epochs: int | None = None
        self.steps_per_epoch = steps_per_epoch
        self._from: tuple[int, float] | None = None
        if self.budget:
            self.total = 0
        else:
            enough = math.ceil(config.min_steps / steps_per_epoch)
            self._epochs = config.epochs or min(max(enough, FEWEST_EPOCHS), MOST_EPOCHS)
            self.total = self._epochs * steps_per_epoch

    @property
    def epochs(self) -> int:
        """Epochs of the whole run, the last one perhaps in part; at least 1."""
        return self._epochs or max(1, math.ceil(self.total / self.steps_per_epoch))

    def measure(self, step: int, work: float, training: float, spent: float, reserve: float = 0.0) -> None:
        """Sets the number of steps of a run on a budget.

        `work` was done in `training` seconds up to `step`, in steps on full-size images; `spent` seconds in all;
        `reserve` will go into validation. The first call marks where measuring begins: the first step pays for what is
        set up once. Steps before the last `plain_share` of the run cost `early` on average, the others 1.
        """
        if not self.budget:
            return
        if self._from is None:
            self._from = (work, training)
        elif work > self._from[0]:
            cost = (training - self._from[1]) / (work - self._from[0])
            left = max(self.budget - spent - reserve, 0.0) / max(cost, 1e-6)  # work that can still be done
            total = (left + step * self.early) / ((1 - self.plain_share) * self.early + self.plain_share)
            if step >= (1 - self.plain_share) * total:
                total = step + left
            self.total = max(step, int(_summed(total) / world_size() + 1e-9))  # the same on all processes

    def is_due(self, step: int) -> bool:
        """Whether a run on a budget should be measured after this step, within an epoch."""
        return bool(self.budget) and (self._from is None or step in (MEASURED_STEPS, 4 * MEASURED_STEPS))

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
