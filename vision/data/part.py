"""Parts of a split, for data that come undivided: `train:80%`, and `train:-20%`, the images that it leaves.

Which images these are hangs on their file names alone, not on their order or place: neighbours in a list, such as the
frames of a video, are mixed, and the same part comes out everywhere. (Frames that look alike then lie on both sides;
where that matters, divide by hand.)
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from hashlib import blake2b

import numpy as np

from vision.data.dataset import Dataset
from vision.data.problem import DataError

__all__ = ["named_part", "take_part"]


def named_part(split: str | None) -> tuple[str | None, int | None]:
    """The split and the per cent of its images that `split` names: ("train", 80), ("train", -20), ("train", None).

    DataError when the share is not of 1 to 99 per cent.
    """
    name, mark, share = (split or "").partition(":")
    if not mark:
        return split, None
    if not re.fullmatch(r"-?[1-9][0-9]?%", share):
        raise DataError(
            f"split {split!r}: expected a share of 1 to 99 per cent: {name}:80%, or {name}:-20% for the rest"
        )
    return name, int(share[:-1])


def take_part(dataset: Dataset, percent: int) -> Dataset:
    """The first `percent` of the images by the hash of their file names, or the last where it is negative.

    DataError when that is none, or all.
    """
    count = len(dataset)
    cut = (count * (percent if percent > 0 else 100 + percent) + 50) // 100
    if not 0 < cut < count:
        raise DataError(f"{dataset.name}: {percent}% of the {count} images of split {dataset.split}: none, or all")
    order = sorted(range(count), key=lambda index: (_hash(dataset.annotations.paths[index]), index))
    chosen = np.sort(order[:cut] if percent > 0 else order[cut:])
    masks = {
        kind: replace(found, paths=found.paths.of(chosen))
        for kind, found in (("class_masks", dataset.class_masks), ("segment_masks", dataset.segment_masks))
        if found is not None
    }
    return Dataset(
        dataset.name,
        f"{dataset.split}:{percent}%",
        dataset.classes,
        sorted(dataset.tasks),
        dataset.annotations.of_images(chosen),
        problems=dataset.problems,
        **masks,
    )


def _hash(path: str) -> bytes:
    return blake2b(os.path.basename(path).encode("utf-8", "surrogateescape"), digest_size=8).digest()
