"""Grey rectangles over parts of an image (Cutout, arXiv:1708.04552)."""

from __future__ import annotations

import numpy as np

from vision.data.placement import Visibility
from vision.structures import Sample

__all__ = ["cutout"]


def cutout(
    sample: Sample, random: np.random.Generator, *, holes: int, largest: float, fill: int, rule: Visibility
) -> Sample:
    """`sample` with 1..holes rectangles of `fill`, their sides up to `largest` of the image's.

    Boxes, masks and semantic maps stay what they were: the hidden part is to be inferred. Objects of whose box less
    than `rule.fraction` can still be seen are dropped, crowds excepted.
    """
    height, width = sample.image.shape[:2]
    hidden = np.zeros((height, width), bool)
    for _ in range(int(random.integers(1, holes + 1))):
        h, w = (max(1, int(side * largest * random.uniform(0.25, 1.0))) for side in (height, width))
        y, x = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
        hidden[y : y + h, x : x + w] = True
    image = sample.image.copy()
    image[hidden] = fill
    target, keep = sample.target, []
    corners = np.concatenate([np.floor(target.boxes[:, :2]), np.ceil(target.boxes[:, 2:])], 1).astype(int)
    for row, (x0, y0, x1, y1) in enumerate(corners):
        part = hidden[y0:y1, x0:x1]
        if target.crowd[row] or not part.size or 1 - part.mean() >= rule.fraction:
            keep.append(row)
    return Sample(image, target if len(keep) == len(target) else target.select(np.array(keep, np.int64)))
