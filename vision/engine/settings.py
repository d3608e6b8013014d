"""The settings of the training toolbox: typed, each field explained below it. No torch is imported here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["BatchGrowthConfig", "OptimConfig", "RegularizeConfig", "ScheduleConfig", "SwaConfig", "check_range"]


def check_range(where: str, value: Any, allowed: str, is_allowed: Callable[[Any], bool]) -> None:
    """ValueError that names the setting `where` and what is `allowed`, unless `value` is None or passes."""
    if value is not None and not is_allowed(value):
        raise ValueError(f"{where} = {value!r} is out of range; allowed: {allowed}")


@dataclass
class OptimConfig:
    """The optimiser, and how it treats the parts of a network."""

    name: Literal["sgd", "rmsprop", "adagrad", "adadelta", "adam", "adamw"] = "adamw"
    """PyTorch's optimiser of that name"""
    lr: float | None = None
    """Peak learning rate; default: sgd 0.01, rmsprop 0.001, adagrad 0.01, adadelta 1.0, adam and adamw 0.001"""
    weight_decay: float | None = None
    """L2 penalty (adamw: decoupled decay); default: adamw 0.05, every other 0.0005"""
    momentum: float = 0.9
    """Momentum of sgd and rmsprop; 0 = plain gradient descent"""
    nesterov: bool = True
    """Nesterov's form of sgd's momentum"""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of adam's and adamw's averages of the gradient and of its square"""
    smoothing: float | None = None
    """Decay of the squared gradient's average in rmsprop (default 0.99) and adadelta (default 0.9)"""
    eps: float | None = None
    """Term that keeps the denominator from 0; default: PyTorch's own for the optimiser"""
    decay_all: bool = False
    """Decay norms, biases and other one-dimensional parameters too"""
    backbone_multiplier: float = 1.0
    """Learning rate of the backbone relative to the rest"""
    layer_decay: float = 1.0
    """Learning rate of a backbone's block relative to the block after it; 1 = the same everywhere"""
    implementation: Literal["auto", "fused", "foreach", "loop"] = "auto"
    """How a step is carried out; auto: fused where PyTorch has it, else PyTorch's choice"""

    def __post_init__(self) -> None:
        self.betas = tuple(self.betas)
        for name in ("lr", "eps"):
            check_range(f"optim.{name}", getattr(self, name), "more than 0", lambda value: value > 0)
        for name in ("weight_decay", "backbone_multiplier"):
            check_range(f"optim.{name}", getattr(self, name), "0 or more", lambda value: value >= 0)
        for name in ("momentum", "smoothing"):
            check_range(f"optim.{name}", getattr(self, name), "0 up to, not including, 1", lambda value: 0 <= value < 1)
        check_range(
            "optim.betas", self.betas, "two of 0 <= b < 1", lambda b: len(b) == 2 and all(0 <= v < 1 for v in b)
        )
        check_range("optim.layer_decay", self.layer_decay, "more than 0, at most 1", lambda value: 0 < value <= 1)


@dataclass
class ScheduleConfig:
    """The learning rate over the run, as a factor of `optim.lr`.

    Lengths are shares of the run when below 1 and optimiser steps from 1 on.
    """

    name: Literal[
        "constant", "step", "multi_step", "exponential", "polynomial", "cosine", "cyclic", "one_cycle", "plateau"
    ] = "cosine"
    """Shape of the curve after the warm-up"""
    warmup: float | None = None
    """Length of the linear warm-up in front, 0 = none; default: 0.05, but none for one_cycle, which has its own rise"""
    warmup_start: float = 0.001
    """Factor that the warm-up starts from"""
    final: float = 0.01
    """Factor at the end of polynomial, of each cosine cycle and of one_cycle; lowest factor of plateau and cyclic"""
    gamma: float = 0.1
    """Factor of each drop (step, multi_step, plateau), over the length `every` (exponential), of a cycle (exp_range)"""
    every: float = 0.33
    """Length between two drops of step, and over which exponential falls by gamma"""
    milestones: list[float] = field(default_factory=lambda: [0.67, 0.89])
    """Where multi_step drops"""
    power: float = 0.9
    """Exponent of polynomial"""
    cycles: int = 1
    """Cycles of cosine (warm restarts) and cyclic in the run"""
    cycle_growth: float = 1.0
    """Length of each cosine cycle relative to the one before"""
    cyclic_mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    """Amplitude of cyclic: constant, halved each cycle, or times gamma each cycle"""
    rise: float = 0.3
    """Share of one_cycle that rises to the peak"""
    start: float = 0.04
    """Factor that one_cycle starts from"""
    cycle_momentum: tuple[float, float] | None = None
    """Momentum (adam: beta 1) at the ends and at the peak of one_cycle and cyclic, as [0.95, 0.85]; default:
    unchanged"""
    patience: int = 3
    """plateau: validations without a better figure (select_by) before a drop"""
    threshold: float = 0.0001
    """plateau: relative improvement that counts as better"""

    def __post_init__(self) -> None:
        self.milestones = sorted(self.milestones)
        for name in ("warmup", "warmup_start", "final", "start", "threshold", "patience"):
            check_range(f"schedule.{name}", getattr(self, name), "0 or more", lambda value: value >= 0)
        for name in ("gamma", "every", "power", "cycle_growth"):
            check_range(f"schedule.{name}", getattr(self, name), "more than 0", lambda value: value > 0)
        check_range("schedule.cycles", self.cycles, "1 or more", lambda value: value >= 1)
        check_range("schedule.rise", self.rise, "more than 0, below 1", lambda value: 0 < value < 1)
        check_range("schedule.milestones", self.milestones, "more than 0", lambda all_: all(m > 0 for m in all_))
        if self.name == "one_cycle" and self.warmup:
            raise ValueError(
                f"schedule.warmup = {self.warmup!r}: one_cycle has its own rise; set schedule.rise, or leave it out"
            )
        if self.cycle_momentum is not None:
            self.cycle_momentum = tuple(self.cycle_momentum)
            self._check_cycle_momentum()

    def _check_cycle_momentum(self) -> None:
        check_range(
            "schedule.cycle_momentum",
            self.cycle_momentum,
            "two of 0 <= m < 1",
            lambda pair: all(0 <= m < 1 for m in pair),
        )
        lowest = {"one_cycle": "start", "cyclic": "final"}.get(self.name)
        if lowest is None:
            raise ValueError(
                f"schedule.cycle_momentum: {self.name} has no cycle that a momentum could follow; choose one_cycle or "
                "cyclic, or leave it out"
            )
        allowed = "less than 1 with cycle_momentum, which falls while the rate rises"
        check_range(f"schedule.{lowest}", getattr(self, lowest), allowed, lambda value: value < 1)


@dataclass
class RegularizeConfig:
    """What keeps a network from learning its training images by heart, beside weight decay and augmentation."""

    l1: float = 0.0
    """Strength of the L1 penalty on weights (not norms and biases), by soft thresholding after each step: with momentum
    m it acts as l1 (1 - m)"""
    activity: float = 0.0
    """Strength of the penalty on the mean size of the backbone's features"""
    activity_kind: Literal["l1", "l2"] = "l2"
    """Size of a feature: its absolute value or its square"""
    constraint: Literal["none", "max_norm", "unit_norm"] = "none"
    """Norm of each filter after each step: at most max_norm, or 1"""
    max_norm: float = 3.0
    """Largest norm of a filter under max_norm"""
    dropout: float = 0.0
    """Share of the backbone's features that is dropped"""
    dropout_kind: Literal["element", "channel", "block"] = "channel"
    """What is dropped together: nothing, whole channels (spatial dropout), squares (DropBlock)"""
    block_size: int = 7
    """Side of DropBlock's squares in pixels of the feature map"""
    drop_path: float = 0.0
    """Share of the images for which the backbone's last residual branch is left out; it grows from 0 at the first"""
    input_noise: float = 0.0
    """Standard deviation of noise on the normalised images"""
    weight_noise: float = 0.0
    """Standard deviation of noise on the weights in each step, relative to their own root mean square"""
    clip_value: float | None = None
    """Largest absolute value of each gradient; default: no limit"""
    batch_norm_images: int | None = None
    """Training images from which the kept model's batch-norm statistics are estimated anew before each validation;
    default: 512 under swa, else 0"""

    def __post_init__(self) -> None:
        for name in ("l1", "activity", "input_noise", "weight_noise", "batch_norm_images"):
            check_range(f"regularize.{name}", getattr(self, name), "0 or more", lambda value: value >= 0)
        for name in ("max_norm", "clip_value"):
            check_range(f"regularize.{name}", getattr(self, name), "more than 0", lambda value: value > 0)
        for name in ("dropout", "drop_path"):
            check_range(
                f"regularize.{name}", getattr(self, name), "0 up to, not including, 1", lambda value: 0 <= value < 1
            )
        check_range("regularize.block_size", self.block_size, "1 or more", lambda value: value >= 1)


@dataclass
class SwaConfig:
    """Stochastic weight averaging: the plain mean of the weights of the run's last part (arXiv:1803.05407)."""

    start: float | None = None
    """Share of the run after which averaging begins, as 0.75; default: never"""
    lr: float = 0.1
    """Constant factor of `optim.lr` from there on"""
    every: int | None = None
    """Steps between two weights that enter the mean; default: an epoch"""

    def __post_init__(self) -> None:
        check_range("swa.start", self.start, "0 up to, not including, 1", lambda value: 0 <= value < 1)
        check_range("swa.lr", self.lr, "more than 0", lambda value: value > 0)
        check_range("swa.every", self.every, "1 or more", lambda value: value >= 1)


@dataclass
class BatchGrowthConfig:
    """A batch that grows over the run, by accumulating more gradients (arXiv:1711.00489)."""

    at: list[float] = field(default_factory=list)
    """Shares of the epochs after which the batch grows, as [0.3, 0.6]; default: never"""
    factor: int = 2
    """How many times larger it becomes each time"""
    rule: Literal["none", "sqrt", "linear"] = "none"
    """Learning rate of a batch k times the first: unchanged (the growth stands for a decay), sqrt k, or k times"""

    def __post_init__(self) -> None:
        self.at = sorted(self.at)
        check_range(
            "batch_growth.at", self.at, "between 0 and 1", lambda shares: all(0 < share < 1 for share in shares)
        )
        check_range("batch_growth.factor", self.factor, "2 or more", lambda value: value >= 2)
