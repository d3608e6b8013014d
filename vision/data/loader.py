"""Batches of a data set, epoch after epoch: decoded, augmented, joined, in worker processes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from vision.data.cache import SampleCache, affordable_cache
from vision.data.collate import collate
from vision.data.resize import Placement, Preprocess
from vision.data.sampler import (
    AUGMENT,
    BatchPlan,
    Draw,
    class_balanced_weights,
    generator,
    multi_scale_sizes,
    repeat_factors,
)
from vision.data.transforms import Augmentation
from vision.structures import Batch, Sample

__all__ = ["SAMPLINGS", "Loader", "SampleSource", "build_loader", "worker_options"]

SAMPLINGS = ("uniform", "repeat_factor", "class_balanced")


def build_loader(
    dataset: Any,
    *,
    preprocess: Preprocess,
    batch_size: int,
    task: str = "detection",
    augmentation: Augmentation | None = None,
    train: bool | None = None,
    workers: int = 0,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    sampling: str = "uniform",
    repeat_threshold: float = 0.001,
    steps_per_epoch: int | None = None,
    multi_scale: tuple[float, float] | None = None,
    cache_bytes: int | None = None,
    with_targets: bool = True,
) -> Loader:
    """A Loader of `dataset`: an iterable of Batches with `set_epoch`, `state_dict` and `load_state_dict`.

    train (default: whether there is an augmentation): shuffled, full batches, see BatchPlan; otherwise every image once
    and in order. batch_size is per rank. task (detection, instance, semantic, panoptic, or multilabel: instance masks
    as one mask a class) decides whether masks and semantic maps are read. sampling: uniform, repeat_factor (with
    `repeat_threshold`) or class_balanced. steps_per_epoch: batches an epoch instead of as many as the images fill.
    multi_scale: each batch has a random size between these two factors of the network size, a multiple of 32.
    cache_bytes: keep decoded images in memory up to this many bytes (all workers together); default: all of them for
    training when they fit into a gigabyte and a quarter of the free memory, else none.
    """
    train = augmentation is not None if train is None else train
    if sampling not in SAMPLINGS:
        raise ValueError(f"build_loader: sampling {sampling!r}; expected one of {', '.join(SAMPLINGS)}")
    if workers < 0:
        raise ValueError(f"build_loader: {workers} workers; expected 0 or more")
    semantic = task in ("semantic", "panoptic")
    factors = _factors(dataset, sampling, repeat_threshold, semantic) if train else None
    sizes = multi_scale_sizes(preprocess.size, *multi_scale) if train and multi_scale else ()
    plan = BatchPlan(
        len(dataset), batch_size, train=train, seed=seed, rank=rank, world=world, steps=steps_per_epoch,
        factors=factors, replace=sampling == "class_balanced", sizes=sizes,
    )  # fmt: skip
    if cache_bytes is None:
        cache_bytes = affordable_cache(dataset, semantic=semantic) if train else 0
    source = SampleSource(dataset, preprocess, task, augmentation, seed, cache_bytes, with_targets)
    return Loader(source, plan, workers, layers=len(dataset.classes) if task == "multilabel" else 0)


def _factors(dataset: Any, sampling: str, threshold: float, semantic: bool) -> np.ndarray | None:
    if sampling == "uniform":
        return None
    labels = [np.asarray(dataset.image_labels(i, semantic=semantic)) for i in range(len(dataset))]
    if sampling == "repeat_factor":
        return repeat_factors(labels, len(dataset.classes), threshold)
    return class_balanced_weights(labels, len(dataset.classes))


class SampleSource(TorchDataset):
    """What a worker does: from a Draw to the sample that goes into the batch, and where its source lies in it."""

    def __init__(
        self,
        dataset: Any,
        preprocess: Preprocess,
        task: str,
        augmentation: Augmentation | None,
        seed: int,
        cache_bytes: int = 0,
        with_targets: bool = True,
    ):
        self.dataset, self.preprocess, self.augmentation, self.seed = dataset, preprocess, augmentation, seed
        self.with_targets = with_targets
        self._reads = {
            "masks": task in ("instance", "panoptic", "multilabel"),
            "semantic": task in ("semantic", "panoptic"),
        }
        self._layers = task == "multilabel"
        self._cache = SampleCache(dataset, cache_bytes, **self._reads) if cache_bytes else None

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> Sample:
        """The sample as it is in the files; for masks that become layers with an empty map, in which augmentations
        mark what they fill up as "ignore"."""
        sample = self._cache.sample(index) if self._cache else self.dataset.sample(index, **self._reads)
        if not self._layers:
            return sample
        empty = np.zeros(sample.target.size, np.uint8)
        return dataclasses.replace(sample, target=dataclasses.replace(sample.target, semantic=empty))

    def __getitem__(self, draw: Draw) -> tuple[Sample, Placement] | Exception:
        try:
            return self.load(draw)
        except (ValueError, OSError) as error:
            # handed over as it is and raised by the Loader: torch would bury the message in a worker's traceback
            return error

    def load(self, draw: Draw) -> tuple[Sample, Placement]:
        """The sample that `draw` asks for, ready for the batch, and its placement."""
        preprocess = self.preprocess if draw.size is None else self.preprocess.resized(draw.size)
        sample = self.read(draw.index)
        if self.augmentation is None:
            image, placement, target = preprocess.apply(sample.image, sample.target)
            return Sample(image, target), placement
        random = generator(self.seed, AUGMENT, draw.epoch, draw.position)
        another = self._another if draw.combine else None
        augmented = self.augmentation(sample, random, another, size=preprocess.size)
        return augmented, Placement.whole(augmented.image.shape[:2])

    def _another(self, random: np.random.Generator) -> Sample:
        return self.read(int(random.integers(len(self.dataset))))


class Loader:
    """Batches of the current epoch at each iteration; workers live on between epochs.

    `set_epoch` says which epoch comes next and where in it to begin; workers learn of it through the draws they are
    sent. Batches depend on the seed, the epoch and the place in it alone: not on the number of workers, not on what was
    loaded before. `state_dict` says how far the current epoch has been consumed.
    """

    def __init__(self, source: SampleSource, plan: BatchPlan, workers: int = 0, layers: int = 0):
        self.source, self.plan, self.workers = source, plan, workers
        self._consumed = 0
        join = partial(_join, pad=source.preprocess.pad, with_targets=source.with_targets, layers=layers)
        self._batches = DataLoader(
            source, batch_sampler=plan, collate_fn=join, generator=torch.Generator().manual_seed(plan.seed),
            pin_memory=torch.cuda.is_available(), persistent_workers=workers > 0, **worker_options(workers),
        )  # fmt: skip

    @property
    def dataset(self) -> Any:
        return self.source.dataset

    def __len__(self) -> int:
        """Batches that the next iteration will yield."""
        return len(self.plan)

    def set_epoch(self, epoch: int, *, start: int = 0, combine: bool = True) -> None:
        """Chooses the epoch of the next iteration, the batch to start at, and whether mosaic, mixup and copy-paste
        (augmentations that combine images) are used in it."""
        if epoch < 0 or not 0 <= start <= self.plan.batches:
            raise ValueError(f"set_epoch: epoch {epoch}, start {start}; an epoch has {self.plan.batches} batches")
        self.plan.epoch, self.plan.start, self.plan.combine = epoch, start, combine
        self._consumed = start

    def __iter__(self) -> Iterator[Batch]:
        self._consumed = self.plan.start
        for batch in self._batches:
            if isinstance(batch, Exception):
                raise batch
            self._consumed += 1
            yield batch

    def state_dict(self) -> dict[str, int | bool]:
        """The epoch, the batches of it that have been handed out, and whether images are combined."""
        return {"epoch": self.plan.epoch, "start": self._consumed, "combine": self.plan.combine}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.set_epoch(state["epoch"], start=state["start"], combine=state["combine"])


def _join(samples: list, **options: Any) -> Batch | Exception:
    """The Batch, or the first error in place of a sample."""
    return next((sample for sample in samples if isinstance(sample, Exception)), None) or collate(samples, **options)


def worker_options(workers: int) -> dict[str, Any]:
    """What a torch DataLoader with so many worker processes is to be told of them, the persistence apart."""
    if not workers:
        return {"num_workers": 0}
    # forked workers share the annotations and the cache of images instead of copying them
    context = "fork" if sys.platform == "linux" else None
    return {"num_workers": workers, "worker_init_fn": _start_worker, "multiprocessing_context": context}


def _start_worker(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)  # the workers are the parallelism
    torch.set_num_threads(1)
