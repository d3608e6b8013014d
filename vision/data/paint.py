"""Instance masks as semantic maps, so that segmenters learn from data that have polygons alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vision.data.dataset import Dataset, as_semantic
from vision.data.pack import CROWD, PackedText
from vision.data.problem import DataError
from vision.structures import ClassMap

__all__ = ["BACKGROUND", "PaintedMasks", "with_semantic_masks"]

BACKGROUND = "background"


@dataclass(frozen=True)
class PaintedMasks:
    """In the place of `ClassMasks`: the objects of each image on a background of label 0, the smaller ones on top.

    A class has its label in `objects` plus 1; crowds are ignored.
    """

    objects: Dataset

    @property
    def paths(self) -> PackedText:
        return self.objects.annotations.paths

    def read(self, index: int, count: int) -> np.ndarray:
        """Labels (H, W): uint8 with 255 = ignore, or int32 with -1 = ignore when there are over 255 classes."""
        notes, rows = self.objects.annotations, self.objects.target_rows(index)
        rows = rows[np.argsort(-notes.area[rows], kind="stable")]
        values = np.zeros(self.objects.size(index), np.int32)
        for row, mask in zip(rows, self.objects.masks_of(index, rows)):
            values[mask] = count if notes.flags[row] & CROWD else notes.labels[row] + 1
        return as_semantic(np.array([*range(count), -1]), values, count)

    def overlap(self, index: int) -> int:
        """Pixels that belong to several objects of the image."""
        covered = np.zeros(self.objects.size(index), np.int32)
        for mask in self.objects.masks_of(index, self.objects.target_rows(index)):
            covered += mask
        return int((covered > 1).sum())


def with_semantic_masks(dataset: Dataset) -> Dataset:
    """The data set as it is, but a semantic one of it where only its objects have masks; `PaintedMasks` says how.

    The classes are then "background" and those of `dataset`. DataError when one of these has that name.
    """
    if "semantic" in dataset.tasks or "instance" not in dataset.tasks:
        return dataset
    if BACKGROUND in dataset.classes.names:
        raise DataError(
            f"{dataset.name}: a class {BACKGROUND!r} of objects; masks that are painted have one of their own"
        )
    notes = dataset.annotations
    return Dataset(
        dataset.name,
        dataset.split,
        ClassMap((BACKGROUND, *dataset.classes.names)),
        ["semantic"],
        replace(notes, labels=notes.labels + 1),
        problems=dataset.problems,
        class_masks=PaintedMasks(dataset),
    )
