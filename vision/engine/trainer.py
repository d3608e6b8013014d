"""The training loop: batches in, optimiser steps, validation, checkpoints. `train.py` puts its parts together."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vision.engine.batch_size import BatchGrowth
from vision.engine.budget import Plan, Spending, early_work, relative_work
from vision.engine.config import TrainConfig
from vision.engine.ema import MovingAverage
from vision.engine.faults import FaultGuard
from vision.engine.gradients import accumulate_gradients
from vision.engine.interrupt import Interruption
from vision.engine.log import LossMeter, RunLog, logger, progress_bar
from vision.engine.regularize import Regularizer
from vision.engine.schedule import Schedule, build_schedule
from vision.engine.selection import Selection, broadcast_buffers, keep, validate, validation_is_due, validation_reserve
from vision.engine.selection_figure import SelectionFigure
from vision.engine.state import Progress, capture, restore, save_state, seed_step
from vision.engine.swa import WeightMean, candidate_of
from vision.engine.verdict import Verdict, agreed, asks_late, step_unless, undone_if
from vision.models import TrainStep, VisionModel
from vision.structures import Batch

__all__ = ["Parts", "Trainer"]

UNKNOWN_LENGTH = 1000  # steps that the schedule assumes until a run on a budget has measured its own


@dataclass
class Parts:
    """What a run is made of."""

    model: VisionModel
    optimizer: torch.optim.Optimizer
    loader: Any
    val_dataset: Any | None
    accelerator: Any
    precision: str
    frozen: list[nn.Module] = field(default_factory=list)


class Trainer:
    """One run: `run()` trains from where `progress` stands to the end, a stop signal or the end of the budget."""

    def __init__(self, config: TrainConfig, parts: Parts):
        self.config, self.parts, self.folder = config, parts, Path(config.out)
        self.model, self.loader, self.accelerator = parts.model, parts.loader, parts.accelerator
        self.device = self.accelerator.device
        self.progress, self.selection, self.spending = Progress(), Selection(), Spending()
        self.figure = SelectionFigure(config, self.model, parts.val_dataset)
        self.plan = Plan(
            config, math.ceil(self.loader.plan.batches / config.accumulate), early_work(self.loader.plan.sizes, config)
        )
        self.growth = BatchGrowth(config.batch_growth, config.accumulate, self.plan.epochs)
        if config.batch_growth.at:
            self.plan.total = self.growth.steps(self.loader.plan.batches)
        self.ema = None if config.ema.decay == 0 else MovingAverage(self.model)
        self.swa = None if config.swa.start is None else WeightMean(self.model, config.swa)
        self.regularizer = Regularizer(self.model, config.regularize)
        train_step = self.regularizer.wrap(TrainStep(self.model))
        if config.compile:
            train_step.compile()
        self.train_step = self.accelerator.prepare_model(train_step)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=parts.precision == "fp16")
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.schedule = self._schedule()
        self.guard = FaultGuard(self.model, self.folder)
        self.asks_late = asks_late(self.device, self.scaler)
        self._unsettled: tuple[list[Batch], dict[str, Tensor], Verdict] | None = None
        self.log = RunLog(self.folder, self.accelerator.is_main_process)
        self.interruption = Interruption()
        self.meter = LossMeter()
        self._stop = self._spent = self._save_is_due = False
        self._saved_at = time.monotonic()
        self._lengthen()

    @property
    def averaged(self) -> VisionModel:
        """The model that is validated and kept."""
        if self.swa is not None and self.swa.count:
            return self.swa.module
        return self.model if self.ema is None else self.ema.module

    @property
    def is_finished(self) -> bool:
        patience = self.config.patience
        early = patience is not None and self.selection.waited >= patience
        return early or self._spent or bool(self.plan.total and self.progress.step >= self.plan.total)

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state. ValueError when it is of another run."""
        restore(self, state)
        self.log.forget_after(self.progress.step)
        self._lengthen()

    def _lengthen(self) -> None:
        """Fits schedule and moving average to the length of the run."""
        state = self.schedule.state_dict()
        self.schedule = self._schedule()
        self.schedule.load_state_dict(state)
        if self.ema is not None:
            self.ema.decay, self.ema.warmup = self.config.ema.over(self.schedule.total_steps)

    def _schedule(self) -> Schedule:
        swa = self.config.swa
        hold = None if swa.start is None else (swa.start, swa.lr)
        return build_schedule(self.config.schedule, self.plan.total or UNKNOWN_LENGTH, hold=hold)

    def _offer_to_mean(self, epoch_ended: bool) -> None:
        if self.swa is not None:
            self.swa.offer(self.model, self.progress.step, self.plan.fraction(self.progress.step), epoch_ended)

    def run(self) -> Progress:
        """Trains to the end and returns where the run stands. KeyboardInterrupt after a stop signal, state saved."""
        first, label = self.progress.epoch, f"train {self.config.model}"
        bar = progress_bar(self.plan.total, label, self.log.enabled, start=self.progress.step)
        with self.interruption, bar as self.bar:
            while not self.is_finished:
                self._epoch()
                if self._stop:
                    self._save()
                    raise KeyboardInterrupt
                if self.progress.epoch - first == self.config.stop_after_epochs:
                    break
            self._save()
        self.log.close()
        return self.progress

    def _epoch(self) -> None:
        """One pass over the loader (or the rest of one), then validation and checkpoint where they are due."""
        progress, started, images = self.progress, time.monotonic(), self.progress.images
        if hasattr(self.model, "epoch"):
            self.model.epoch = progress.epoch  # losses that change over the run read it
        if progress.batch == 0:
            progress.combine = self.plan.fraction(progress.step) < 1 - self.config.plain_share
        self.to_training()
        self.spending.begin()
        for batches in self._groups():
            self._optimizer_step(batches)
            if self.is_finished or self._stop:
                break
            if self._save_is_due:
                self._settle()
                self.spending.end("training")
                self._save()
                self.spending.begin()
        self._settle()
        self.spending.end("training")
        if self._stop and not self.is_finished and progress.batch < self.loader.plan.batches:
            return  # goes on within this epoch
        row = {"epoch": progress.epoch + 1, "lr": self.parts.optimizer.param_groups[-1]["lr"], **self.meter.read()}
        row["images_per_second"] = (progress.images - images) / max(time.monotonic() - started, 1e-9)
        progress.epoch, progress.batch = progress.epoch + 1, 0
        self._offer_to_mean(epoch_ended=True)
        self._measure()  # before asking whether this was the last epoch, whose model is validated
        if validation_is_due(self):
            row |= self._validate()
            self._measure()
        self.log.record(progress.step, {**row, "cpu_seconds": self.spending.total})
        saves = time.monotonic() - self._saved_at >= self.config.save_seconds
        if agreed(saves, device=self.device)[0]:  # all processes save together, whatever their clocks say
            self._save()

    def to_training(self) -> None:
        """Puts the model into training mode, except what is frozen."""
        self.train_step.train()
        for module in self.parts.frozen:
            module.eval()

    def _groups(self) -> Iterator[list[Batch]]:
        """The rest of the epoch's batches on the device, `accumulate` at a time; the last group may be smaller."""
        progress = self.progress
        self.loader.set_epoch(progress.epoch, start=progress.batch, combine=progress.combine)
        with self.interruption.shielded():  # data workers leave Ctrl-C to us
            batches = iter(self.loader)
            first = next(batches)
        there = (batch.to(self.device, non_blocking=True) for batch in itertools.chain([first], batches))
        while group := list(itertools.islice(there, self.growth.accumulate(progress.epoch))):
            progress.batch += len(group)
            yield group

    def _optimizer_step(self, batches: list[Batch]) -> None:
        """One step of the optimiser over `batches`, whose losses are averaged; skipped when they are not finite."""
        progress, optimizer = self.progress, self.parts.optimizer
        seed_step(self.config.seed, progress.step, self.accelerator.process_index)
        self.schedule.apply(optimizer, progress.step, self.growth.lr_factor(progress.epoch))
        self.guard.remember()
        losses = self.gradients(batches)
        flags = self._flags(losses)
        self.guard.put_back(flags[0])
        self._settle()
        self._unsettled = batches, losses, Verdict(flags)
        if self.asks_late:
            step_unless(flags[0], optimizer)
            with undone_if(flags[0], self.regularizer.changed):
                self.regularizer.after_step(optimizer)
        elif not flags[0]:
            self.scaler.step(optimizer)
            self.regularizer.after_step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        if not self.asks_late:
            self._settle()
        progress.work += sum(relative_work(batch.images.shape[-2:], self.config) for batch in batches) / len(batches)
        progress.images += sum(len(batch.image_ids) for batch in batches) * self.accelerator.num_processes
        self.bar.update()
        if progress.step % self.config.log_every == 0:
            self.bar.set_postfix_str(f"epoch {progress.epoch + 1}, loss {self.meter.peek():.3f}")
        if self.plan.is_due(progress.step):
            self._measure()

    def gradients(self, batches: list[Batch]) -> dict[str, Tensor]:
        """Adds the gradients of the batches' mean loss, with weight noise where it is asked for; the losses by name."""
        with self.regularizer.noisy_weights():
            return accumulate_gradients(self.train_step, batches, self.accelerator, self.scaler, self.parts.precision)

    def clip(self) -> Tensor:
        """Limits the gradients by value and norm, as the settings say; the norm in between."""
        self.scaler.unscale_(self.parts.optimizer)
        self.regularizer.clip(self.parameters)
        return nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm or float("inf"))

    def _flags(self, losses: dict[str, Tensor]) -> Tensor:
        """(4,) on the device: skip this step, stop the run, its budget is spent, its state is to be saved."""
        norm = self.clip()
        bad = ~torch.isfinite(torch.stack(list(losses.values())).sum())
        if not self.scaler.is_enabled():  # fp16: the scaler itself skips steps whose gradients overflow
            bad = bad | ~torch.isfinite(norm)
        spent = self.plan.is_spent(self.spending.so_far() + validation_reserve(self)) if self.plan.budget else False
        save = 0 < self.config.save_within <= time.monotonic() - self._saved_at
        return agreed(bad, self.interruption.requested, spent, save, device=self.device)

    def _settle(self) -> None:
        """What is left to do about the step before, once the host knows how it went."""
        if self._unsettled is None:
            return
        (batches, losses, verdict), self._unsettled = self._unsettled, None
        bad, self._stop, self._spent, self._save_is_due = verdict.read()
        if bad:
            self.guard.report(self.progress.step - 1, batches, losses, self.accelerator.process_index)
        else:
            self.guard.in_a_row = 0
            if self.ema is not None:
                self.ema.update(self.model)
            self.meter.add(losses)
        self._offer_to_mean(epoch_ended=False)

    def _measure(self) -> None:
        """Lets a run on a budget fit its length to what a step costs."""
        if not self.plan.budget:
            return
        training = self.spending.so_far() - self.spending.validation
        self.plan.measure(
            self.progress.step, self.progress.work, training, training + self.spending.validation,
            validation_reserve(self),
        )  # fmt: skip
        self._lengthen()
        self.bar.total = self.plan.total or None
        self.bar.refresh()

    def _validate(self) -> dict[str, Any]:
        """Metrics of the averaged model, which is kept when it is the best so far."""
        progress = self.progress
        self.spending.begin()
        candidate = candidate_of(self)
        broadcast_buffers(self.model, candidate, *self._averages())
        evaluation = validate(
            candidate, self.parts.val_dataset, self.config, self.accelerator, self.parts.precision, self.figure.analyse
        )
        self.spending.end("validation")
        progress.validations += 1
        name, value = self.figure.of(evaluation)
        self.schedule.observe(self.figure.sign * value)
        chosen = self.selection.offer(value, name, progress.epoch, evaluation.to_dict(), self.figure.sign)
        if chosen and self.accelerator.is_main_process:
            keep(candidate, self.folder, evaluation, progress, (name, value))
        logger.info("epoch %d: %s", progress.epoch, self.selection.told(name, value))
        return {"validation": evaluation.to_dict()}

    def _averages(self) -> list[VisionModel]:
        return [average.module for average in (self.ema, self.swa) if average is not None]

    def _save(self) -> None:
        """Writes `last.pt`."""
        broadcast_buffers(self.model, *self._averages())
        if self.accelerator.is_main_process:
            save_state(self.folder / "last.pt", capture(self))
        self.accelerator.wait_for_everyone()
        self._saved_at, self._save_is_due = time.monotonic(), False
