"""Learning-rate schedules: the factor of each optimiser step, computed from the step alone (plateau: and its state).

Computing a factor from the step rather than from the one before makes a resumed run continue exactly and lets the
curve be printed, plotted and tested without an optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from vision.engine.settings import ScheduleConfig

__all__ = ["SCHEDULES", "Schedule", "ScheduleConfig", "build_schedule"]

DEFAULT_WARMUP = 0.05  # share of the run


def build_schedule(config: ScheduleConfig, total_steps: int, *, hold: tuple[float, float] | None = None) -> Schedule:
    """The schedule that `config` describes for a run of `total_steps` optimiser steps.

    `hold` = (share of the run, factor): from there on the factor is constant (stochastic weight averaging).
    """
    if config.name not in SCHEDULES:
        raise ValueError(f"schedule.name = {config.name!r} is not known; choose one of: {', '.join(SCHEDULES)}")
    if total_steps < 1:
        raise ValueError(f"build_schedule: {total_steps} steps; a run has at least one")
    return Schedule(config, total_steps, hold)


class Schedule:
    """`factor(step)` for step 0, 1, ...; `observe(metric)` after each validation (only plateau listens).

    `state_dict` holds what cannot be computed from the step: plateau's drops so far.
    """

    def __init__(self, config: ScheduleConfig, total_steps: int, hold: tuple[float, float] | None = None):
        self.config = config
        self._held_from = math.inf if hold is None else hold[0] * total_steps
        self._held = 1.0 if hold is None else hold[1]
        self.total_steps = total_steps
        self.warmup = min(_length(_warmup(config), total_steps), total_steps - 1)
        self._curve = SCHEDULES[config.name]
        self._state: dict[str, Any] = {"drops": 0, "waited": 0, "best": None}

    def factor(self, step: int) -> float:
        """What the peak learning rate is multiplied by in optimiser step `step`, counted from 0."""
        if step >= self._held_from:
            return self._held
        if step < self.warmup:
            start = self.config.warmup_start
            return start + (1 - start) * step / self.warmup
        if self.config.name == "plateau":
            return max(self.config.gamma ** self._state["drops"], self.config.final)
        return self._curve(step - self.warmup, self.total_steps - self.warmup, self.config)

    def momentum(self, step: int) -> float | None:
        """The momentum of step `step` under `cycle_momentum`: it falls where the learning rate rises; else None."""
        if self.config.cycle_momentum is None or self.config.name not in ("one_cycle", "cyclic"):
            return None
        outer, inner = self.config.cycle_momentum
        lowest = self.config.start if self.config.name == "one_cycle" else self.config.final
        risen = (self.factor(step) - lowest) / (1 - lowest)
        return outer + (inner - outer) * min(max(risen, 0.0), 1.0)

    def apply(self, optimizer: Optimizer, step: int, scale: float = 1.0) -> float:
        """Set every group's learning rate (and momentum) for step `step`; the factor, times `scale`, comes back."""
        factor, momentum = self.factor(step) * scale, self.momentum(step)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
            if momentum is not None and "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            elif momentum is not None and "momentum" in group:
                group["momentum"] = momentum
        return factor

    def observe(self, metric: float) -> None:
        """Tell plateau the metric of a validation, the larger the better; one that is not finite changes nothing."""
        if self.config.name != "plateau" or not math.isfinite(metric):
            return
        state, best = self._state, self._state["best"]
        if best is None or metric - best > self.config.threshold * abs(best):
            state.update(best=metric, waited=0)
            return
        state["waited"] += 1
        if state["waited"] > self.config.patience:
            state.update(drops=state["drops"] + 1, waited=0)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = {name: state[name] for name in self._state}


def _length(value: float, steps: int) -> int:
    """A length of the configuration in steps: a share of the run below 1, steps from 1 on."""
    return round(value * steps) if value < 1 else int(value)


def _warmup(config: ScheduleConfig) -> float:
    if config.name == "one_cycle":
        return 0.0
    return DEFAULT_WARMUP if config.warmup is None else config.warmup


def _constant(step: int, steps: int, config: ScheduleConfig) -> float:
    return 1.0


def _step(step: int, steps: int, config: ScheduleConfig) -> float:
    return config.gamma ** (step // max(_length(config.every, steps), 1))


def _multi_step(step: int, steps: int, config: ScheduleConfig) -> float:
    return config.gamma ** sum(step >= _length(milestone, steps) for milestone in config.milestones)


def _exponential(step: int, steps: int, config: ScheduleConfig) -> float:
    return config.gamma ** (step / max(_length(config.every, steps), 1))


def _polynomial(step: int, steps: int, config: ScheduleConfig) -> float:
    return config.final + (1 - config.final) * (1 - min(step / steps, 1.0)) ** config.power


def _cosine(step: int, steps: int, config: ScheduleConfig) -> float:
    """SGDR (arXiv:1608.03983, eq. 5): cycles of growing length that together fill the run."""
    growth = config.cycle_growth
    length = steps / sum(growth**cycle for cycle in range(config.cycles))
    position = min(float(step), float(steps))
    for _ in range(config.cycles - 1):
        if position < length - 1e-9:
            break
        position -= length
        length *= growth
    share = min(position / length, 1.0)
    return config.final + (1 - config.final) * (1 + math.cos(math.pi * share)) / 2


def _cyclic(step: int, steps: int, config: ScheduleConfig) -> float:
    """Triangles between `final` and 1 (arXiv:1506.01186), with falling amplitude in two of the modes."""
    length = steps / config.cycles
    cycle, share = int(step / length), (step / length) % 1.0
    height = 1 - abs(2 * share - 1)
    amplitude = {
        "triangular": 1.0,
        "triangular2": 0.5**cycle,
        "exp_range": config.gamma ** (step / length),
    }[config.cyclic_mode]
    return config.final + (1 - config.final) * height * amplitude


def _one_cycle(step: int, steps: int, config: ScheduleConfig) -> float:
    """Cosine rise from `start` to 1 over the share `rise`, then cosine fall to `final` (arXiv:1708.07120)."""
    peak, last = max(config.rise * steps - 1, 1e-9), max(steps - 1, 1)
    if step <= peak:
        return 1 + (config.start - 1) * (1 + math.cos(math.pi * step / peak)) / 2
    share = min((step - peak) / max(last - peak, 1e-9), 1.0)
    return config.final + (1 - config.final) * (1 + math.cos(math.pi * share)) / 2


SCHEDULES: dict[str, Callable[[int, int, ScheduleConfig], float]] = {
    "constant": _constant,
    "step": _step,
    "multi_step": _multi_step,
    "exponential": _exponential,
    "polynomial": _polynomial,
    "cosine": _cosine,
    "cyclic": _cyclic,
    "one_cycle": _one_cycle,
    "plateau": _constant,  # its factor comes from the metrics that it has observed
}
