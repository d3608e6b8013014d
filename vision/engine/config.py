"""The settings of a training run: typed, each field explained below it, every range checked.

`TrainConfig()` holds the defaults; `vision train` reads them in the order defaults < recipe < --config file < command
line (see `options.py`). This module imports no torch, so that `vision train --help` starts at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from vision.data.augment_config import AugmentConfig
from vision.engine.settings import (
    BatchGrowthConfig,
    OptimConfig,
    RegularizeConfig,
    ScheduleConfig,
    SwaConfig,
    check_range,
)

__all__ = ["EmaConfig", "OptimConfig", "SamplingConfig", "ScheduleConfig", "TrainConfig"]

DEFAULT_SIZE = 640  # pixels, where neither recipe nor command line gives a size


def _at_least(config: Any, prefix: str, lowest: float, *names: str) -> None:
    for name in names:
        check_range(prefix + name, getattr(config, name), f"{lowest} or more", lambda value: value >= lowest)


def _positive(config: Any, prefix: str, *names: str) -> None:
    for name in names:
        check_range(prefix + name, getattr(config, name), "more than 0", lambda value: value > 0)


def _share(config: Any, prefix: str, *names: str) -> None:
    for name in names:
        check_range(prefix + name, getattr(config, name), "0 up to, not including, 1", lambda value: 0 <= value < 1)


@dataclass
class EmaConfig:
    """The moving average of the weights, which is what is validated and kept."""

    decay: float | None = None
    """Share of the average that a step keeps, once warmed up; 0 = no average; default: by `span`, at most 0.9998"""
    span: float = 0.05
    """Share of the run over which the average reaches back when `decay` is not given: decay = 1 - 1 / (span * steps)"""
    warmup: float | None = None
    """Steps of the warm-up: the decay after step t is decay * (1 - exp(-t / warmup)); default: span * steps"""

    def __post_init__(self) -> None:
        _share(self, "ema.", "decay")
        _positive(self, "ema.", "warmup", "span")

    def over(self, steps: int) -> tuple[float, float]:
        """(decay, warm-up in steps) of a run of `steps` optimiser steps."""
        reach = max(self.span * steps, 1.0)
        decay = min(1 - 1 / reach, 0.9998) if self.decay is None else self.decay
        return decay, reach if self.warmup is None else self.warmup


@dataclass
class SamplingConfig:
    """How images are drawn and classes weighted when they are rare."""

    name: Literal["uniform", "repeat_factor", "class_balanced"] = "uniform"
    """uniform: each image once an epoch; repeat_factor: images of rare classes more often (LVIS); class_balanced: a
    class, then an image with it"""
    repeat_threshold: float = 0.001
    """repeat_factor: classes in less than this share of the images are rare"""
    class_weights: Literal["none", "balanced", "effective_number", "median_frequency"] = "none"
    """Weights of the classes in a segmenter's cross-entropy, from the training masks' own pixel counts"""

    def __post_init__(self) -> None:
        _share(self, "sampling.", "repeat_threshold")


@dataclass
class TrainConfig:
    """Everything that a training run depends on."""

    model: str = "yolo_n"
    """Name of the model (`vision models` lists them)"""
    model_options: dict[str, Any] = field(default_factory=dict)
    """The model builder's own options, as --model_options.width 0.5 or --model_options.norms group"""
    data: str = ""
    """Data set: a card (YAML), a folder, an annotation file, or a built-in name such as "shapes" """
    train_split: str = "train"
    """Split to train on; a part of one where the data come undivided, as train:80%"""
    val_split: str | None = "val"
    """Split to validate on, as train:-20% (what train:80% leaves); null = no validation"""
    out: str = ""
    """Folder of the run: config.yaml, last.pt, best.safetensors, metrics.jsonl, results.md, TensorBoard events"""
    weights: str | None = None
    """Weights to start from: a checkpoint, a name (shipped, public as retinanet_resnet50_fpn-coco, or for the backbone
    alone as resnet50-imagenet), or a classification file of torchvision; what does not fit is reported"""
    resume: bool = False
    """Continue the run in --out where it stopped"""

    epochs: int | None = None
    """Passes over the training split; default: as many as give `min_steps` optimiser steps, 30 to 300"""
    min_steps: int = 4000
    """Optimiser steps that a run without `epochs` aims at, so that a small data set is trained long enough"""
    cpu_seconds: float | None = None
    """Instead of `epochs`: stop after this many user-CPU seconds, workers and validation included"""
    stop_after_epochs: int | None = None
    """Stop, resumably, after this many epochs of this call; the schedule stays that of the whole run"""
    batch_size: int = 16
    """Images of an optimiser step on one process and one accumulation"""
    accumulate: int = 1
    """Batches whose gradients are added up for one optimiser step"""
    auto_batch: bool = False
    """Instead of batch_size: the largest batch, up to 1024, that fits into the device's memory and leaves an epoch 16
    steps, or batches of 2 where there are too few images for that"""
    find_lr: bool = False
    """Instead of training: measure the loss over growing learning rates, draw it and suggest one"""
    image_size: int | tuple[int, int] | None = None
    """Side, or height and width, of the network's input in pixels, as 640 or 240 320; default: the recipe's"""
    resize: Literal["letterbox", "stretch", "keep"] = "letterbox"
    """How an image becomes `image_size`: ratio kept and padded, stretched, or left as it is"""
    multi_scale: tuple[float, float] | None = None
    """Smallest and largest factor of the input size, drawn for each batch, as [0.75, 1.25]; default: fixed size"""
    plain_share: float = 0.1
    """Share of the run, at its end, without mosaic, mixup, copy-paste and multi_scale: it ends on images as they are"""
    loss: dict[str, Any] | str | None = None
    """A segmenter's losses by name with their weights, as {cross_entropy: 1.0, dice: 0.5}; default: the model's own"""

    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    swa: SwaConfig = field(default_factory=SwaConfig)
    regularize: RegularizeConfig = field(default_factory=RegularizeConfig)
    batch_growth: BatchGrowthConfig = field(default_factory=BatchGrowthConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    clip_norm: float | None = 10.0
    """Largest norm of all gradients together; null = no clipping"""
    freeze: list[str] = field(default_factory=list)
    """Parameters that are not trained: shell patterns of their names, as backbone.*"""

    validate_every: int | None = None
    """Epochs between validations; default: about ten in a run"""
    select_by: str | None = None
    """Figure of a validation by which the best weights are chosen, and which patience and the schedule plateau watch:
    its dotted name in metrics.json, as AP50, per_class.pole.IoU, segm.AP or surface.hd95; default: the headline"""
    select_mode: Literal["max", "min"] = "max"
    """Whether a larger or a smaller figure is better"""
    patience: int | None = None
    """Stop early after this many validations without a better figure (select_by); default: never"""
    cache_gigabytes: float = 1.0
    """Memory for decoded training images, filled from the first on; 0 = decode anew each time"""
    save_seconds: float = 30.0
    """Seconds that at least lie between two writings of last.pt; 0 = after every epoch"""
    save_within: float = 600.0
    """Seconds after which last.pt is written within an epoch as well; 0 = at its end only"""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 on GPUs and on CPUs with AMX or AVX512-BF16, else fp32"""
    compile: bool = False
    """Compile the train step with torch.compile"""
    threads: int | None = None
    """Threads of PyTorch on a CPU; default: one per core, shared among the processes"""
    workers: int | None = None
    """Processes that load data; default: none on a CPU with up to 2 cores, else up to 8"""
    seed: int = 0
    """Everything random follows from it, whatever the number of workers"""
    log_every: int = 20
    """Steps between two readings of the losses"""

    def __post_init__(self) -> None:
        _at_least(
            self, "", 1, "epochs", "min_steps", "batch_size", "accumulate", "validate_every", "patience",
            "threads", "log_every", "stop_after_epochs",
        )  # fmt: skip
        _at_least(self, "", 0, "workers", "seed", "save_seconds", "save_within", "cache_gigabytes")
        _positive(self, "", "cpu_seconds", "clip_norm")
        _share(self, "", "plain_share")
        check_range(
            "multi_scale", self.multi_scale, "0.1 <= low <= high <= 4", lambda pair: 0.1 <= pair[0] <= pair[1] <= 4
        )
        sides = (self.image_size,) if isinstance(self.image_size, int) else self.image_size or ()
        for side in sides:
            check_range("image_size", side, "16 to 8192 pixels", lambda value: 16 <= value <= 8192)
        if self.epochs and self.cpu_seconds:
            raise ValueError("epochs and cpu_seconds are both given; choose one: each says when the run ends")
        if self.schedule.cycle_momentum is not None and self.optim.name in ("adagrad", "adadelta"):
            raise ValueError(
                f"schedule.cycle_momentum: {self.optim.name} has no momentum; choose sgd, rmsprop, adam or adamw as "
                "optim.name, or leave it out"
            )
        if self.val_split is None and self.select_by is not None:
            raise ValueError(f"select_by = {self.select_by!r} needs validations, and val_split is null; give a split")
        if self.select_mode == "min" and self.select_by is None:
            raise ValueError("select_mode = 'min', but larger headlines are better; name the figure: select_by")
        if self.batch_growth.at and self.cpu_seconds:
            raise ValueError("batch_growth.at is in shares of the epochs, which cpu_seconds leaves open; give epochs")

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        size = self.image_size or DEFAULT_SIZE
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in config.yaml."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    """`value` with lists for tuples: what YAML and JSON can write."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
