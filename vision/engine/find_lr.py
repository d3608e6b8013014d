"""The learning-rate range test: the loss while the rate grows from far too small to far too large."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch.optim import Optimizer

from vision.engine.files import write_text
from vision.engine.log import logger, progress_bar
from vision.engine.state import seed_step

if TYPE_CHECKING:
    from vision.engine.trainer import Trainer
    from vision.structures import Batch

__all__ = ["FILES", "RangeTest", "find_learning_rate", "range_test"]

FILES = ("find_lr.json", "find_lr.svg")
STEPS = 100
SMOOTHING = 0.9  # share of the average of the losses that a step keeps
DIVERGED = 4.0  # the test ends when the loss exceeds its lowest value this many times


@dataclass(frozen=True)
class RangeTest:
    """Smoothed loss at each learning rate, and the rate that it suggests: where the loss falls fastest."""

    rates: list[float]
    losses: list[float]
    suggestion: float

    def save(self, folder: Path) -> None:
        """Writes `find_lr.json` and the curve as `find_lr.svg` into `folder`, which is made where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip(FILES, (json.dumps(asdict(self), indent=1), draw(self))):
            write_text(folder / name, text)


def range_test(
    step: Callable[[], float],
    optimizer: Optimizer,
    *,
    steps: int = STEPS,
    lowest: float = 1e-7,
    highest: float = 1.0,
) -> RangeTest:
    """Runs `step` (one optimiser step -> its loss) while the learning rate grows geometrically (arXiv:1506.01186).

    Each group keeps its ratio to the others (by `initial_lr`). The suggestion is the rate at the steepest fall of the
    smoothed loss over the logarithm of the rate. Changes model and optimiser: use copies, or throw them away.
    ValueError when the loss is not finite at the lowest rate.
    """
    if steps < 10 or not 0 < lowest < highest:
        raise ValueError(f"range_test: {steps} steps from {lowest} to {highest}; expected 10 or more, lowest < highest")
    top = max(group["initial_lr"] for group in optimizer.param_groups)
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for number in range(steps):
        rate = lowest * (highest / lowest) ** (number / (steps - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["initial_lr"] / top
        loss = float(step())
        if not math.isfinite(loss):
            break
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        rates.append(rate)
        losses.append(average / (1 - SMOOTHING ** (number + 1)))
        if number > steps // 10 and losses[-1] > DIVERGED * min(losses):
            break
    if len(rates) < 3:
        raise ValueError(f"range_test: the loss is not finite at a learning rate of {lowest:g}; check data and model")
    return RangeTest(rates, losses, suggest(rates, losses))


def find_learning_rate(trainer: Trainer) -> RangeTest:
    """The range test of a run that has not begun, on its own model, data and optimiser; files go to its folder.

    A step is one of training, with its accumulation, clipping, noise, L1 and constraints; weights that are frozen stay.
    The lowest rate is a ten-thousandth of `optim.lr`, the highest a thousand times it. The trainer is of no use
    afterwards.
    """
    optimizer, config = trainer.parts.optimizer, trainer.config
    trainer.to_training()
    groups = enumerate(_groups(trainer))

    def step() -> float:
        number, batches = next(groups)
        seed_step(config.seed, number, trainer.accelerator.process_index)
        losses = trainer.gradients(batches)
        trainer.clip()
        trainer.scaler.step(optimizer)
        trainer.regularizer.after_step(optimizer)
        trainer.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        bar.update()
        return float(trainer.accelerator.reduce(sum(losses.values()), "mean"))

    base = max(group["initial_lr"] for group in optimizer.param_groups)
    with progress_bar(STEPS, "find_lr", trainer.accelerator.is_main_process) as bar:
        test = range_test(step, optimizer, steps=STEPS, lowest=1e-4 * base, highest=1e3 * base)
    if trainer.accelerator.is_main_process:
        test.save(trainer.folder)
        logger.info("learning rate %.2g suggested; the curve is %s", test.suggestion, trainer.folder / "find_lr.svg")
    return test


def _groups(trainer: Trainer) -> Iterator[list[Batch]]:
    """The batches of one optimiser step after the other, without end."""
    for epoch in itertools.count():
        trainer.loader.set_epoch(epoch)
        batches = (batch.to(trainer.device) for batch in trainer.loader)
        while group := list(itertools.islice(batches, trainer.config.accumulate)):
            yield group


def suggest(rates: list[float], losses: list[float]) -> float:
    """The rate of the steepest fall before the lowest loss, slopes taken over a tenth of the curve."""
    reach = max(len(rates) // 20, 1)
    lowest = min(range(len(losses)), key=losses.__getitem__)
    slopes = {}
    for place in range(reach, max(lowest, reach + 1)):
        after = min(place + reach, len(rates) - 1)
        width = math.log(rates[after] / rates[place - reach])
        slopes[place] = (losses[after] - losses[place - reach]) / width
    return rates[min(slopes, key=slopes.__getitem__)]


def draw(test: RangeTest, width: int = 640, height: int = 360) -> str:
    """The curve as an SVG picture: loss over the logarithm of the learning rate, the suggestion marked."""
    left, right, top, bottom = 60, width - 20, 20, height - 40
    first, last = math.log10(test.rates[0]), math.log10(test.rates[-1])
    low, high = min(test.losses), sorted(test.losses)[int(0.95 * (len(test.losses) - 1))]

    def x(rate: float) -> float:
        return left + (math.log10(rate) - first) / max(last - first, 1e-9) * (right - left)

    def y(loss: float) -> float:
        share = (loss - low) / max(high - low, 1e-9)
        return bottom - min(share, 1.0) * (bottom - top)

    points = " ".join(f"{x(rate):.1f},{y(loss):.1f}" for rate, loss in zip(test.rates, test.losses))
    ticks = "".join(
        f'<line x1="{x(10.0**power):.1f}" y1="{bottom}" x2="{x(10.0**power):.1f}" y2="{bottom + 5}" stroke="#444"/>'
        f'<text x="{x(10.0**power):.1f}" y="{bottom + 18}" text-anchor="middle">1e{power}</text>'
        for power in range(math.ceil(first), math.floor(last) + 1)
    )
    mark = x(test.suggestion)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>{ticks}'
        f'<text x="{left - 6}" y="{y(low):.1f}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{left - 6}" y="{top + 8}" text-anchor="end">{high:.3g}</text>'
        f'<polyline points="{points}" fill="none" stroke="#1660a8" stroke-width="2"/>'
        f'<line x1="{mark:.1f}" y1="{top}" x2="{mark:.1f}" y2="{bottom}" stroke="#c03020" stroke-dasharray="4"/>'
        f'<text x="{mark + 4:.1f}" y="{top + 12}" fill="#c03020">{test.suggestion:.2g}</text>'
        f'<text x="{(left + right) / 2}" y="{height - 6}" text-anchor="middle">learning rate</text></svg>'
    )
