"""Decoded images kept in memory, shared by a loader's workers."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

__all__ = ["ImageCache"]


class ImageCache:
    """Keeps the decoded images of a data set, up to `limit` bytes in all; the rest is decoded each time.

    The memory is one shared mapping, reserved but only taken as images arrive, so that forked workers fill and read the
    same pages; a worker that is not forked gets a cache of its own. Which images are kept is decided by their sizes
    alone, first come first: caching never changes what a loader yields.
    """

    def __init__(self, dataset: Any, limit: int):
        self.dataset, self.limit = dataset, int(limit)
        sizes = np.array([int(np.prod(dataset.size(i))) * 3 for i in range(len(dataset))], np.int64)
        self._ends = np.cumsum(sizes)
        self._starts = self._ends - sizes
        total = int(self._ends[self._ends <= self.limit].max(initial=0))
        self._count = len(dataset)
        # one byte an image says that it is there; it is written after the pixels
        self._map = mmap.mmap(-1, total + self._count)
        self._bytes = np.frombuffer(self._map, np.uint8)

    def __reduce__(self) -> tuple:
        return ImageCache, (self.dataset, self.limit)

    def image(self, i: int) -> np.ndarray:
        """The decoded image uint8 (H, W, 3); not to be written to."""
        if self._ends[i] > self.limit:
            return self.dataset.image(i)
        start = self._count + int(self._starts[i])
        stored = self._bytes[start : self._count + int(self._ends[i])]
        shape = (*self.dataset.size(i), 3)
        if not self._bytes[i]:
            image = self.dataset.image(i)
            if image.shape != shape:
                raise ValueError(
                    f"{self.dataset.image_path(i)}: {image.shape[1]}x{image.shape[0]} pixels, but the annotations say "
                    f"{shape[1]}x{shape[0]}; correct the annotation or replace the image"
                )
            stored[:] = image.reshape(-1)
            self._bytes[i] = 1
        return stored.reshape(shape)
