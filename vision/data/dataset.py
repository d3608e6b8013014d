"""A data set that is opened: images by number, their targets decoded on demand from packed annotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vision.data.image import read_colours, read_image, read_index_mask, read_segment_ids
from vision.data.pack import CROWD, DEGENERATE, DIFFICULT, STUFF, Annotations, PackedText
from vision.data.problem import DataError, Problem
from vision.data.segment import decode_segment
from vision.structures import ClassMap, Sample, Target

__all__ = ["ClassMasks", "Dataset", "SegmentMasks", "as_semantic"]


@dataclass(frozen=True)
class ClassMasks:
    """One file an image whose values are classes: paths N files, labels (K,) int32: value -> label.

    In `labels` -1 is ignored and -2 a value that the data set does not know; values of K and over are unknown too.
    With `colours` (K,) int32, ascending, the files are in colours and a colour's value is its place in them.
    """

    paths: PackedText
    labels: np.ndarray
    colours: np.ndarray | None = None

    def read(self, index: int, count: int) -> np.ndarray:
        """Labels (H, W): uint8 with 255 = ignore, or int32 with -1 = ignore when there are over 255 classes."""
        if self.colours is not None:
            found = read_colours(self.paths[index])
            values = np.searchsorted(self.colours, found).clip(max=len(self.colours) - 1)
            unknown = (self.colours[values] != found).any()
        else:
            values = read_index_mask(self.paths[index])
            unknown = values.min() < 0 or values.max() >= len(self.labels)
            unknown = unknown or (self.labels[np.unique(values)] == -2).any()
        if unknown:
            raise DataError(self._refusal(index))
        return as_semantic(self.labels, values, count)

    def unknown_values(self, index: int) -> list[str]:
        """The values (or colours, "R G B") in the file of an image that the data set does not know."""
        if self.colours is not None:
            present = np.unique(read_colours(self.paths[index]))
            return [_spelled(colour) for colour in present[~np.isin(present, self.colours)].tolist()]
        present = np.unique(read_index_mask(self.paths[index]))
        known = (present >= 0) & (present < len(self.labels))
        known[known] = self.labels[present[known]] != -2
        return [str(value) for value in present[~known]]

    def _refusal(self, index: int) -> str:
        if self.colours is not None:
            what, allowed = "mask colour", [_spelled(colour) for colour in self.colours.tolist()]
        else:
            what, allowed = "mask value", _ranges(np.flatnonzero(self.labels != -2))
        unknown = ", ".join(self.unknown_values(index)[:8])
        shown = ", ".join(allowed if len(allowed) < 12 else [*allowed[:10], "...", allowed[-1]])
        return (
            f"{self.paths[index]}: {what} {unknown}; expected {shown}; "
            f"mend the mask, or give the {what.split()[1]} a class or `ignore` in a data set card"
        )


@dataclass(frozen=True)
class SegmentMasks:
    """One file an image whose values are segments, numbered as `Annotations.object_ids` of that image.

    panoptic: COCO's RGB ids, all segments are annotated; otherwise one channel (VOC SegmentationObject).
    """

    paths: PackedText
    panoptic: bool

    def read(self, index: int) -> np.ndarray:
        path = self.paths[index]
        return read_segment_ids(path) if self.panoptic else read_index_mask(path)


class Dataset:
    """Images and targets of one split. Readers build it; `open_dataset` finds the right reader.

    classes · tasks: what the annotations serve ("detection", "instance", "semantic", "panoptic") · task: the one it was
    opened for, if any · split · name · problems: everything that was left out, mended or unusual. Objects without
    an area are in `annotations` but not in targets. Safe to fork: all annotations are in a few arrays.
    """

    def __init__(
        self,
        name: str,
        split: str,
        classes: ClassMap,
        tasks: Sequence[str],
        annotations: Annotations,
        *,
        problems: Sequence[Problem] = (),
        class_masks: ClassMasks | None = None,
        segment_masks: SegmentMasks | None = None,
    ):
        self.name, self.split, self.classes = name, split, classes
        self.tasks = frozenset(tasks)
        self.annotations = annotations
        self.problems = list(problems)
        self.class_masks, self.segment_masks = class_masks, segment_masks
        self.task: str | None = None

    def __len__(self) -> int:
        return len(self.annotations.sizes)

    def __getitem__(self, index: int) -> Sample:
        """The sample with what its task needs, or with all that there is; torch's DataLoader takes the data set with a
        `collate_fn` of yours. IndexError past the end."""
        asked = self.tasks if self.task is None else {self.task}
        return self.sample(
            range(len(self))[index],
            masks=bool(asked & {"instance", "panoptic", "multilabel"}) and "instance" in self.tasks,
            semantic=bool(asked & {"semantic", "panoptic", "multilabel"}) and "semantic" in self.tasks,
        )

    def __repr__(self) -> str:
        tasks = ", ".join(sorted(self.tasks))
        objects = len(self.annotations.boxes)
        return (
            f"<{self.name} {self.split}: {len(self)} images, {objects} objects, {len(self.classes)} classes; {tasks}>"
        )

    def image_path(self, index: int) -> Path:
        return Path(self.annotations.paths[index])

    def image_id(self, index: int) -> int | str:
        """As in the files: COCO's number, or the file name without its suffix."""
        image_id = self.annotations.ids[index]
        return image_id if isinstance(image_id, str) else int(image_id)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels, without decoding the image."""
        height, width = self.annotations.sizes[index]
        return int(height), int(width)

    def image(self, index: int) -> np.ndarray:
        """The image as uint8 RGB (H, W, 3); DataError when it cannot be read or is not of the annotated size."""
        path, size = self.image_path(index), self.size(index)
        image = read_image(path)
        if image.shape[:2] == size[::-1] != size:
            # annotated on the pixels as stored, without the turn that EXIF asks for
            image = read_image(path, upright=False)
        if image.shape[:2] != size:
            raise DataError(
                f"{path}: an image of {image.shape[1]}x{image.shape[0]} pixels; expected {size[1]}x{size[0]} as "
                "annotated; use the images that the annotations were made for"
            )
        return image

    def target(self, index: int, masks: bool = False, semantic: bool = False, *, as_written: bool = False) -> Target:
        """What is true of the image, in its pixels: boxes cut at its edges, objects without an area left out.

        `masks` and `semantic` ask for those fields (ValueError when the data set has none). `as_written` gives all
        objects with the boxes of the files: for figures that have to equal another tool's.
        """
        rows, size = self.target_rows(index, as_written), self.size(index)
        notes = self.annotations
        boxes = notes.boxes[rows]
        if not as_written:
            boxes = np.clip(boxes, 0, [size[1], size[0], size[1], size[0]])
        return Target(
            boxes=boxes.astype(np.float32),
            labels=notes.labels[rows].astype(np.int64),
            crowd=(notes.flags[rows] & CROWD) > 0,
            difficult=(notes.flags[rows] & DIFFICULT) > 0,
            area=notes.area[rows],
            masks=self._masks(index, rows) if masks else None,
            semantic=self.semantic(index) if semantic else None,
            image_id=self.image_id(index),
            size=size,
        )

    def sample(self, index: int, masks: bool = False, semantic: bool = False) -> Sample:
        """The decoded image and its target."""
        return Sample(self.image(index), self.target(index, masks=masks, semantic=semantic))

    def annotation_ids(self, index: int, *, as_written: bool = False) -> np.ndarray:
        """(N,) int64, beside the objects of `target`: annotation id, line number, or place in the file from 1."""
        return self.annotations.object_ids[self.target_rows(index, as_written)]

    def semantic(self, index: int) -> np.ndarray:
        """The class of each pixel (H, W), ignore = 255 (over 255 classes: int32, ignore = -1)."""
        if self.class_masks is not None:
            labels = self.class_masks.read(index, len(self.classes))
        elif self.segment_masks is not None and self.segment_masks.panoptic:
            labels = self._semantic_of_segments(index)
        else:
            raise ValueError(f"{self.name}: no semantic masks in this data set (it serves {sorted(self.tasks)})")
        if labels.shape != self.size(index):
            raise DataError(
                f"{self._mask_path(index)}: a mask of {labels.shape[1]}x{labels.shape[0]} pixels beside an image of "
                f"{self.size(index)[1]}x{self.size(index)[0]}; expected the same size; mend the pair"
            )
        return labels

    def panoptic(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Segments of things and stuff: ids (H, W) int32, 0 = unlabelled; and beside each other segment_ids (S,)
        int64, labels (S,) int64, crowd (S,) bool."""
        if self.segment_masks is None or not self.segment_masks.panoptic:
            raise ValueError(f"{self.name}: no panoptic annotations in this data set (it serves {sorted(self.tasks)})")
        notes, rows = self.annotations, self.annotations.rows(index)
        crowd = (notes.flags[rows] & CROWD) > 0
        return self.segment_masks.read(index), notes.object_ids[rows], notes.labels[rows].astype(np.int64), crowd

    def image_labels(self, index: int, *, semantic: bool = False) -> np.ndarray:
        """The labels (K,) int64 that occur in the image, crowds apart; of pixels where there are no objects, or where
        `semantic` asks for them (stuff is there alone)."""
        if self.tasks & {"detection", "instance"} and not semantic:
            rows = self.target_rows(index, as_written=False)
            rows = rows[(self.annotations.flags[rows] & CROWD) == 0]
            return np.unique(self.annotations.labels[rows]).astype(np.int64)
        labels = np.unique(self.semantic(index)).astype(np.int64)
        return labels[(labels >= 0) & (labels < len(self.classes))]

    def label_counts(self) -> np.ndarray:
        """(C,) int64: objects of each class, crowds apart; of pixels where there are no objects (reads all masks)."""
        count = len(self.classes)
        if self.tasks & {"detection", "instance"}:
            plain = (self.annotations.flags & (CROWD | DEGENERATE | STUFF)) == 0
            return np.bincount(self.annotations.labels[plain], minlength=count).astype(np.int64)
        total = np.zeros(count, np.int64)
        for index in range(len(self)):
            total += count_labels(self.semantic(index), count)
        return total

    def target_rows(self, index: int, as_written: bool = False) -> np.ndarray:
        """Rows of `annotations` that are the objects of `target`, in its order."""
        rows = self.annotations.rows(index)
        left_out = STUFF if as_written else STUFF | DEGENERATE
        return rows.start + np.flatnonzero((self.annotations.flags[rows] & left_out) == 0)

    def _mask_path(self, index: int) -> str:
        return (self.class_masks or self.segment_masks).paths[index]

    def _semantic_of_segments(self, index: int) -> np.ndarray:
        ids, segment_ids, labels, _ = self.panoptic(index)
        present, inverse = np.unique(ids, return_inverse=True)
        known = {int(segment): int(label) for segment, label in zip(segment_ids, labels)}
        table = np.array([known.get(int(value), -1) for value in present], np.int32)
        return as_semantic(table, inverse.reshape(ids.shape), len(self.classes))

    def masks_of(self, index: int, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The masks (H, W) bool of the objects in `rows` of `annotations`, one after the other; they are of image
        `index`. ValueError when the data set has none."""
        if self.segment_masks is not None:
            ids = self.segment_masks.read(index)
            yield from (ids == object_id for object_id in self.annotations.object_ids[rows])
        elif "instance" in self.tasks:
            size = self.size(index)
            for row in rows:  # boxes without an area, which are there as written alone, may have no segment
                segment = self.annotations.segment(row)
                yield np.zeros(size, bool) if segment is None else decode_segment(segment, size)
        else:
            raise ValueError(f"{self.name}: no instance masks in this data set (it serves {sorted(self.tasks)})")

    def _masks(self, index: int, rows: np.ndarray) -> np.ndarray:
        """(N, H, W) bool of the objects in `rows`."""
        masks = np.zeros((len(rows), *self.size(index)), bool)
        for place, mask in enumerate(self.masks_of(index, rows)):
            masks[place] = mask
        return masks


def _spelled(colour: int) -> str:
    return f"{colour >> 16} {colour >> 8 & 255} {colour & 255}"


def _ranges(values: np.ndarray) -> list[str]:
    """Ascending numbers as text, runs of more than two as "first to last"."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return [part for run in runs for part in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))]


def count_labels(labels: np.ndarray, count: int) -> np.ndarray:
    """(count,) int64: the pixels of each of the labels 0 .. count - 1; what is ignored counts nowhere."""
    return np.bincount(labels[(labels >= 0) & (labels < count)], minlength=count)


def as_semantic(table: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """`table[values]` (-1 = ignore) as uint8 with 255 = ignore, or int32 when there are over 255 classes."""
    if count <= 255:
        return np.where(table < 0, 255, table).astype(np.uint8)[values]
    return table.astype(np.int32)[values]
