"""Decoded images and semantic maps kept in memory, shared by a loader's workers."""

from __future__ import annotations

import dataclasses
import mmap
from typing import Any

import numpy as np

from vision.data.memory import free_memory
from vision.structures import Sample, Target

__all__ = ["SampleCache", "affordable_cache"]

_GIGABYTE = 1 << 30


def affordable_cache(dataset: Any, *, semantic: bool = False) -> int:
    """Bytes that hold a whole data set decoded, or 0 when that is over a gigabyte or a quarter of the free memory."""
    limit, needed = min(_GIGABYTE, free_memory() // 4), 0
    for i in range(len(dataset)):
        height, width = dataset.size(i)
        needed += height * width * (3 + 4 * semantic) + 4
        if needed > limit:
            return 0
    return needed


class SampleCache:
    """Keeps the decoded images (and semantic maps, if asked for) of a data set, up to `limit` bytes in all.

    The memory is one shared mapping, reserved but only taken as images arrive, so that forked workers fill and read the
    same pages; a worker that is not forked gets a cache of its own. The first images of the data set are kept, as many
    as fit, the others are decoded each time: caching never changes what is read. Instance masks are not kept.
    """

    def __init__(self, dataset: Any, limit: int, *, masks: bool = False, semantic: bool = False):
        self.dataset, self.limit, self.masks, self.semantic = dataset, int(limit), masks, semantic
        label_type = np.dtype(np.uint8 if len(dataset.classes) <= 255 else np.int32)
        self._label_type, label_bytes = label_type, label_type.itemsize * semantic
        pixels = np.array([int(np.prod(dataset.size(i))) for i in range(len(dataset))], np.int64)
        # rounded up to multiples of 4, on which int32 maps can lie
        self._ends = np.cumsum(-(-pixels * (3 + label_bytes) // 4) * 4)
        total = int(self._ends[self._ends <= self.limit].max(initial=0))
        # after the pixels one byte an image says that it is there; it is written last
        self._bytes = np.frombuffer(mmap.mmap(-1, total + len(pixels)), np.uint8)
        self._present = self._bytes[total:]
        self._targets: dict[int, Target] = {}  # each process its own: they are small

    def __reduce__(self) -> tuple:
        return _rebuild, (self.dataset, self.limit, self.masks, self.semantic)

    def sample(self, i: int) -> Sample:
        """Image and target of the data set's sample i; arrays that nobody may write to."""
        end = int(self._ends[i])
        if end > self.limit:
            return self.dataset.sample(i, masks=self.masks, semantic=self.semantic)
        height, width = self.dataset.size(i)
        start = int(self._ends[i - 1]) if i else 0
        labels_at = end - height * width * self._label_type.itemsize
        image = self._bytes[start : start + height * width * 3].reshape(height, width, 3)
        semantic = self._bytes[labels_at:end].view(self._label_type).reshape(height, width) if self.semantic else None
        if not self._present[i]:
            self._store(i, image, semantic)
        target = self._targets.get(i)
        if target is None:
            target = self.dataset.target(i, masks=self.masks)
            if not self.masks:
                self._targets[i] = target
        return Sample(image, target if semantic is None else dataclasses.replace(target, semantic=semantic))

    def _store(self, i: int, image: np.ndarray, semantic: np.ndarray | None) -> None:
        sample = self.dataset.sample(i, semantic=self.semantic)
        if sample.image.shape != image.shape:
            raise ValueError(
                f"{self.dataset.image_path(i)}: an image of shape {sample.image.shape}; expected {image.shape} as the "
                "data set states; correct the annotation or replace the image"
            )
        image[:] = sample.image
        if semantic is not None:
            semantic[:] = sample.target.semantic
        self._present[i] = 1


def _rebuild(dataset: Any, limit: int, masks: bool, semantic: bool) -> SampleCache:
    return SampleCache(dataset, limit, masks=masks, semantic=semantic)
