"""Random crops of one image, mosaics of four, and mixtures of two."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from vision.data.placement import Visibility, Window, compose, merge_targets
from vision.structures import Sample

__all__ = ["mixup", "mosaic", "mosaic_regions", "random_window"]


def random_window(
    source: tuple[int, int],
    region: tuple[int, int, int, int],
    scale: tuple[float, float],
    random: np.random.Generator,
    focus: tuple[float, float] | None = None,
) -> Window:
    """A window that puts an image of `source` = (height, width), scaled by about `scale` = (y, x), into `region`.

    A side that is shorter than the region lies anywhere within it; of a longer one a random stretch is cut out, one
    that holds the point `focus` (y, x) if it is given. Both rectangles are whole pixels, so that the factors are off by
    at most half a pixel over the side.
    """
    near, far, first, last = [0, 0], [0, 0], [0, 0], [0, 0]  # of the source, of the canvas; y and x
    for axis in (0, 1):
        room = region[3 - axis] - region[1 - axis]
        length = max(1, round(source[axis] * scale[axis]))
        if length <= room:
            near[axis], far[axis] = 0, source[axis]
            first[axis] = region[1 - axis] + int(random.integers(room - length + 1))
            last[axis] = first[axis] + length
        else:
            cut = min(source[axis], max(1, round(room / scale[axis])))
            low, high = 0, source[axis] - cut
            if focus is not None:
                low, high = min(high, max(0, int(focus[axis]) - cut + 1)), max(0, min(high, int(focus[axis])))
            near[axis] = int(random.integers(low, high + 1))
            far[axis] = near[axis] + cut
            first[axis], last[axis] = region[1 - axis], region[3 - axis]
    return Window((near[1], near[0], far[1], far[0]), (first[1], first[0], last[1], last[0]))


def mosaic_regions(size: tuple[int, int], random: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """The four rectangles around a random point of the middle half of a canvas of `size` = (height, width)."""
    height, width = size
    x, y = (int(side * random.uniform(0.3, 0.7)) for side in (width, height))
    return [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]


def mosaic(
    samples: Sequence[Sample],
    size: tuple[int, int],
    scales: Sequence[tuple[float, float]],
    random: np.random.Generator,
    *,
    pad: int = 114,
    rule: Visibility,
) -> Sample:
    """Four samples around a random point of a canvas of `size` = (height, width) (YOLOv4, arXiv:2004.10934).

    Each is scaled by its entry of `scales` (y, x) and cropped to its part directly: unlike the usual mosaic, no canvas
    of four times the area is drawn to be warped and mostly thrown away, and all parts of an image are seen alike.
    """
    if len(samples) != 4 or min(size) < 4:
        raise ValueError(f"mosaic: {len(samples)} images for a canvas of {size}; expected 4, at least 4 pixels a side")
    regions = mosaic_regions(size, random)
    windows = [
        random_window(sample.image.shape[:2], region, scale, random)
        for sample, region, scale in zip(samples, regions, scales)
    ]
    return compose(list(zip(samples, windows)), size, pad=pad, rule=rule)


def mixup(first: Sample, second: Sample, share: float) -> Sample:
    """share * first + (1 - share) * second, with the objects of both (arXiv:1710.09412, as YOLOX uses it for boxes).

    Both have one size. A mixture has no one class a pixel, so a semantic map does not survive.
    """
    if first.image.shape != second.image.shape:
        raise ValueError(f"mixup: images of {first.image.shape} and {second.image.shape}; expected one size")
    image = cv2.addWeighted(first.image, share, second.image, 1 - share, 0)
    whole = (0, 0, 0, 0)
    return Sample(
        image, dataclasses.replace(merge_targets([first.target, second.target], [whole, whole]), semantic=None)
    )
