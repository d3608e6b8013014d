"""The shape of the network's input, from one side length and the shapes of the images."""

from __future__ import annotations

from typing import Any

from vision.data.resize import Preprocess

__all__ = ["fitting_preprocess"]

MULTIPLE = 32  # the divisor of most models


def fitting_preprocess(size: int | tuple[int, int], mode: str, dataset: Any) -> Preprocess:
    """How the images of `dataset` are prepared at `size`.

    A single side stands for a square; a letterbox is then cut down to the smallest multiple of 32 that still holds
    every image: where all images are 4:3, a fourth of a square would be padding, computed for nothing.
    """
    whole = Preprocess(size, mode)
    if not isinstance(size, int) or mode != "letterbox":
        return whole
    contents = {whole.content_size(source) for source in {dataset.size(index) for index in range(len(dataset))}}
    sides = (max(content[axis] for content in contents) for axis in (0, 1))
    return whole.resized(tuple(min(-(-side // MULTIPLE) * MULTIPLE, size) for side in sides))
