"""`train`: from settings to the parts of a run, and the run itself."""

from __future__ import annotations

import fnmatch
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from vision.data import open_dataset
from vision.data.layers import class_pixels, learnt_as
from vision.data.loader import Loader, build_loader
from vision.data.problem import MissingSplit
from vision.data.resize import Preprocess
from vision.data.transforms import build_augmentation
from vision.engine.batch_size import batch_limit, choice_told, fitting_batch_size
from vision.engine.canvas import fitting_preprocess
from vision.engine.checkpoint import transfer
from vision.engine.config import DEFAULT_SIZE, TrainConfig
from vision.engine.device import DTYPES, build_accelerator, choose_device, choose_precision, choose_workers, set_threads
from vision.engine.evaluate import check_classes
from vision.engine.files import write_text
from vision.engine.find_lr import find_learning_rate
from vision.engine.inference import check_channels
from vision.engine.log import logger
from vision.engine.optim import build_optimizer
from vision.engine.options import settings
from vision.engine.run_folder import check_free, clear_unless_saved
from vision.engine.selection import keep
from vision.engine.state import load_state
from vision.engine.swa import candidate_of
from vision.engine.trainer import Parts, Trainer
from vision.layers.planar import use_planar_gradients
from vision.losses.mining import class_weights
from vision.models import VisionModel, build_model
from vision.structures import ClassMap

__all__ = ["TrainResult", "freeze", "train"]

WITHOUT_VALIDATION = "to train without validation: --val-split null"


@dataclass(frozen=True)
class TrainResult:
    """What a finished (or, by `stop_after_epochs`, paused) run has come to."""

    folder: Path
    epochs: int
    steps: int
    metric: str
    value: float | None
    metrics: dict[str, Any]
    cpu_seconds: float
    images_per_cpu_second: float
    suggested_lr: float | None = None
    finished: bool = True

    @property
    def weights(self) -> Path:
        return self.folder / "best.safetensors"


def train(config: TrainConfig | str | Path | None = None, **given: Any) -> TrainResult:
    """Trains a model and returns the result; the run folder `out` holds weights, state, metrics and curves.

    `config`, or settings by name as on the command line: train(model="yolo_n", data="shapes", out="runs/first",
    optim={"lr": 0.001}), on top of the recipe for the model's task, or of `config`, a YAML file. ValueError names the
    setting or file at fault, before anything is written. KeyboardInterrupt after Ctrl-C, when the state has been saved.
    """
    if config is not None and not isinstance(config, TrainConfig):  # a YAML file
        given, config = {"config": config, **given}, None
    if config is not None and given:
        raise ValueError(f"train: a TrainConfig and settings beside it ({', '.join(given)}); put them into the one")
    config = config or settings(given)
    if not config.data or not config.out:
        missing = "data" if not config.data else "out"
        raise ValueError(f"{missing} is not given; say what to train on (data) and where the run is kept (out)")
    folder = Path(config.out)
    if not config.resume:
        check_free(folder)
    state = _saved_state(config)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    accelerator = build_accelerator(device)
    set_threads(config.threads, accelerator.device, accelerator.num_processes)
    torch.manual_seed(config.seed)
    trainer = Trainer(config, _parts(config, accelerator, precision, restored=state is not None))
    if state is not None:
        trainer.resume(state)
    elif config.resume:
        trainer.log.forget_after(-1)
    _announce(trainer)
    if config.find_lr:
        return TrainResult(folder, 0, 0, "", None, {}, 0.0, 0.0, find_learning_rate(trainer).suggestion)
    _run(trainer)
    return _result(trainer)


def _saved_state(config: TrainConfig) -> dict[str, Any] | None:
    """What a run to go on with has saved; None for a new one, and for one that was killed before it saved anything."""
    last = Path(config.out) / "last.pt"
    if config.resume and not last.exists() and not (last.parent / "best.safetensors").exists():
        logger.warning("%s: the run was stopped before its first checkpoint; it begins anew", config.out)
        return None
    return load_state(last) if config.resume else None


def _run(trainer: Trainer) -> None:
    """Makes the folder of a new run and trains. When it fails before anything was saved, nothing of it stays."""
    folder, config, accelerator = trainer.folder, trainer.config, trainer.accelerator
    accelerator.wait_for_everyone()  # every process has seen that the folder was free
    begins = accelerator.is_main_process and not config.resume
    if begins:
        check_free(folder)  # it may have been taken while the model was built
    try:
        if begins:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "config.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False))
        accelerator.wait_for_everyone()
        trainer.run()
    except BaseException:
        if begins:
            clear_unless_saved(folder)
        raise


def _parts(config: TrainConfig, accelerator: Any, precision: str, restored: bool) -> Parts:
    """Data sets, model, loader and optimiser; without the weights to start from where a saved state follows
    (`restored`). ValueError when they do not fit one another."""
    # the task alone is wanted: without the loss, whose class weights are made for the data set's own number of classes
    reads = build_model(config.model, 2, **{k: v for k, v in config.model_options.items() if k != "loss"}).reads
    train_dataset = _open(config.data, config.train_split, reads)
    val_dataset = None if config.val_split is None else _open(config.data, config.val_split, reads)
    task = learnt_as(train_dataset, reads)
    model = _model(config, train_dataset)
    check_channels(model)
    if val_dataset is not None:
        check_classes(model, val_dataset)
    size = config.image_size or DEFAULT_SIZE
    model.preprocess = Preprocess(size, config.resize)  # any shape of image is welcome later
    if model.task == "semantic":  # large images may be looked at in tiles later, at the scale that was learnt
        model.preprocess = model.preprocess.learnt_from([train_dataset.size(i) for i in _some_of(train_dataset)])
    preprocess = fitting_preprocess(size, config.resize, train_dataset)
    if config.auto_batch and not config.resume:
        config.batch_size = _fitting_batch(config, model, train_dataset, preprocess, task, accelerator, precision)
    loader = _loader(config, train_dataset, preprocess, task, accelerator)
    if config.weights is not None and not restored:
        report = transfer(model, config.weights)
        logger.log(logging.WARNING if report.partial else logging.INFO, "weights %s: %s", config.weights, report)
    frozen = freeze(model, config.freeze)
    model.to(device=accelerator.device, memory_format=torch.channels_last)
    use_planar_gradients(model, accelerator.device, DTYPES[precision])
    optimizer = build_optimizer(model, config.optim)
    return Parts(model, optimizer, loader, val_dataset, accelerator, precision, frozen)


def _model_options(config: TrainConfig) -> dict[str, Any]:
    return {**config.model_options, **({} if config.loss is None else {"loss": config.loss})}


def _open(data: str, split: str, task: str) -> Any:
    """A split for `task`. ValueError when it has no images, or none of them has anything to learn from."""
    try:
        dataset = open_dataset(data, split, task=task)
    except MissingSplit as error:
        raise ValueError(f"{error}" + ("" if split == "train" else f"; {WITHOUT_VALIDATION}")) from None
    if len(dataset) == 0:
        raise ValueError(f"{data}: split {split!r} has no images; check the path and the split's list")
    if learnt_as(dataset, task) != "semantic" and not dataset.label_counts().any():
        raise ValueError(
            f"{data}: split {split!r} has {len(dataset)} images and no annotated object; check its annotation files"
            + ("" if split == "train" else f"; {WITHOUT_VALIDATION}")
        )
    warned = [problem for problem in dataset.problems if problem.severity == "warning"]
    if warned:
        others = f" (and {len(warned) - 1} more warnings: vision check {data})" if len(warned) > 1 else ""
        logger.info("%s, split %s: %s%s", data, split, warned[0], others)
    return dataset


def _model(config: TrainConfig, dataset: Any) -> VisionModel:
    torch.manual_seed(config.seed)
    model = build_model(config.model, ClassMap.of(dataset.classes), **_model_options(config))
    criterion = getattr(model, "criterion", None)
    if config.sampling.class_weights != "none":
        if criterion is None:
            raise ValueError(f"sampling.class_weights: {config.model} has no loss that takes class weights; use none")
        criterion.use_class_weight(class_weights(_pixel_counts(dataset), config.sampling.class_weights))
    elif getattr(criterion, "needs_counts", False):
        criterion.use_counts(_pixel_counts(dataset))
    return model


def _pixel_counts(dataset: Any) -> torch.Tensor:
    """(C,) pixels of each class in up to 500 training masks, evenly chosen."""
    return torch.from_numpy(sum(class_pixels(dataset, index) for index in _some_of(dataset)))


def _some_of(dataset: Any) -> range:
    """About 500 indices, evenly chosen: enough for a statistic of the whole."""
    return range(0, len(dataset), max(1, len(dataset) // 500))


def _loader(config: TrainConfig, dataset: Any, preprocess: Preprocess, task: str, accelerator: Any) -> Loader:
    return build_loader(
        dataset,
        preprocess=preprocess,
        augmentation=build_augmentation(config.augment, preprocess, task),
        batch_size=config.batch_size,
        task=task,
        train=True,
        workers=choose_workers(config.workers, accelerator.device, accelerator.num_processes),
        seed=config.seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        sampling=config.sampling.name,
        repeat_threshold=config.sampling.repeat_threshold,
        multi_scale=config.multi_scale,
        cache_bytes=int(config.cache_gigabytes * 2**30 / accelerator.num_processes),
    )


def _fitting_batch(
    config: TrainConfig, model: VisionModel, dataset: Any, preprocess: Preprocess, task: str, accelerator: Any,
    precision: str,
) -> int:  # fmt: skip
    """The batch size that `auto_batch` stands for: the smallest of what the processes find."""

    def load(size: int) -> Any:
        augmentation = build_augmentation(config.augment, preprocess, task)
        loader = build_loader(
            dataset, preprocess=preprocess, augmentation=augmentation, batch_size=size, task=task, train=True
        )
        return next(iter(loader))

    images = len(dataset) // accelerator.num_processes
    limit, shown = batch_limit(images, config.accumulate), accelerator.is_main_process
    size = fitting_batch_size(model, load, accelerator.device, precision, limit, progress=shown)
    size = int(accelerator.gather(torch.tensor([size], device=accelerator.device)).min())
    logger.info("auto_batch: %s", choice_told(size, limit, images, config))
    return size


def freeze(model: nn.Module, patterns: list[str]) -> list[nn.Module]:
    """Stops the training of parameters whose names match a shell pattern; returns the modules that are frozen whole.

    Those also keep their running statistics. ValueError for a pattern that matches nothing, or when nothing is left.
    """
    names = dict(model.named_parameters())
    for pattern in patterns:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            raise ValueError(f"freeze: {pattern!r} matches no parameter of the model; there are e.g. {[*names][:5]}")
        for name in matched:
            names[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in names.values()):
        raise ValueError(f"freeze: {patterns} leave nothing to train")
    own = ((module, list(module.parameters(recurse=False))) for module in model.modules())
    return [module for module, parameters in own if parameters and not any(p.requires_grad for p in parameters)]


def _announce(trainer: Trainer) -> None:
    config, parts = trainer.config, trainer.parts
    length = f"{config.cpu_seconds:g} CPU seconds, epochs" if config.cpu_seconds else f"{trainer.plan.epochs} epochs"
    validation = "no validation" if parts.val_dataset is None else f"{len(parts.val_dataset)} to validate"
    logger.info(
        "%s on %s: %d images to train, %s, %d classes; %s of %d steps; %s, %s, %d process(es)",
        config.model, config.data, len(parts.loader.dataset), validation, len(parts.model.classes),
        length, trainer.plan.steps_per_epoch, trainer.device, parts.precision, trainer.accelerator.num_processes,
    )  # fmt: skip
    if trainer.accelerator.num_processes == 1 and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        logger.warning(
            "a launcher was asked for several processes (MASTER_ADDR is set) and started a single one, as `accelerate "
            "launch --cpu` does without MPI; use `torchrun --nproc_per_node N`, or `accelerate launch --multi_gpu`, "
            "which starts CPU processes too"
        )


def _result(trainer: Trainer) -> TrainResult:
    progress, selection, spending = trainer.progress, trainer.selection, trainer.spending
    if trainer.parts.val_dataset is None and trainer.accelerator.is_main_process:
        keep(candidate_of(trainer), trainer.folder, None, progress)
    elif progress.validations and selection.value is None:
        logger.warning("%s was finite in no validation: best.safetensors are the last weights", selection.name)
    return TrainResult(
        trainer.folder, progress.epoch, progress.step, selection.name, selection.value, selection.metrics,
        spending.total, progress.images / max(spending.training, 1e-9), finished=trainer.is_finished,
    )  # fmt: skip
