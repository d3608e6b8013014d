"""Annotations of a whole data set in a few flat arrays, so that forked loader workers share them without copying.

A list of dicts of Python numbers has a reference count in every element; reading it from a worker writes to its pages
and the operating system copies them one by one. Arrays have one count each.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vision.data.problem import Problem

__all__ = ["CROWD", "DEGENERATE", "DIFFICULT", "STUFF", "TRUNCATED", "Annotations", "AnnotationsBuilder", "PackedText"]

# bits of Annotations.flags
CROWD, DIFFICULT, TRUNCATED, DEGENERATE, STUFF = 1, 2, 4, 8, 16


class PackedText:
    """A read-only list of strings in two arrays: the UTF-8 bytes of all, and where each begins."""

    def __init__(self, texts: Iterable[str]):
        buffer, starts = bytearray(), array("q", [0])
        for text in texts:
            buffer += text.encode("utf-8", "surrogateescape")
            starts.append(len(buffer))
        self.buffer = np.frombuffer(bytes(buffer), np.uint8)
        self.starts = np.asarray(starts, np.int64)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"{index} of {len(self)}")
        return self.buffer[self.starts[index] : self.starts[index + 1]].tobytes().decode("utf-8", "surrogateescape")

    def of(self, chosen: Iterable[int]) -> PackedText:
        """Those of the indices `chosen`, in that order."""
        return PackedText(self[index] for index in chosen)


@dataclass(frozen=True)
class Annotations:
    """N images with M objects, objects of image i in rows start[i]..start[i + 1].

    paths N image files · ids (N,) int64 or N texts, as in the files · sizes (N, 2) int32 height, width · start (N + 1,)
    boxes (M, 4) float64 xyxy as written in the files · labels (M,) int32 · flags (M,) uint8 of the bits above
    area (M,) float64 · object_ids (M,) int64: annotation id, place in the file or line number
    segments: COCO's compressed RLE in the bytes counts[counts_start[m]:counts_start[m + 1]], or polygons, the rings
    ring_first[m]..ring_first[m + 1], ring r with the x, y values coordinates[ring_start[r]:ring_start[r + 1]], which
    are int32 hundredths of a pixel where that is exact for all (COCO writes 2 decimals), else float64
    """

    paths: PackedText
    ids: np.ndarray | PackedText
    sizes: np.ndarray
    start: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    flags: np.ndarray
    area: np.ndarray
    object_ids: np.ndarray
    counts: np.ndarray
    counts_start: np.ndarray
    ring_first: np.ndarray
    ring_start: np.ndarray
    coordinates: np.ndarray

    def rows(self, index: int) -> slice:
        return slice(int(self.start[index]), int(self.start[index + 1]))

    def segment(self, row: int) -> bytes | list[np.ndarray] | None:
        """COCO's compressed RLE counts (bytes), or polygons (list of flat x, y float64 arrays), or None."""
        begin, end = self.counts_start[row : row + 2]
        if end > begin:
            return self.counts[begin:end].tobytes()
        rings = range(self.ring_first[row], self.ring_first[row + 1])
        unit = 100.0 if self.coordinates.dtype == np.int32 else 1.0
        return [self.coordinates[self.ring_start[r] : self.ring_start[r + 1]] / unit for r in rings] or None

    def of_images(self, chosen: np.ndarray) -> Annotations:
        """Those of the images `chosen` (K,) int64, in that order."""
        rows, start = _gather(self.start, chosen)
        counts, counts_start = _gather(self.counts_start, rows)
        rings, ring_first = _gather(self.ring_first, rows)
        coordinates, ring_start = _gather(self.ring_start, rings)
        return Annotations(
            paths=self.paths.of(chosen),
            ids=self.ids.of(chosen) if isinstance(self.ids, PackedText) else self.ids[chosen],
            sizes=self.sizes[chosen],
            start=start,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            flags=self.flags[rows],
            area=self.area[rows],
            object_ids=self.object_ids[rows],
            counts=self.counts[counts],
            counts_start=counts_start,
            ring_first=ring_first,
            ring_start=ring_start,
            coordinates=self.coordinates[coordinates],
        )

    @property
    def segmented(self) -> np.ndarray:
        """(M,) bool: the objects that have a segment."""
        return (np.diff(self.counts_start) > 0) | (np.diff(self.ring_first) > 0)

    @property
    def in_targets(self) -> np.ndarray:
        """(M,) bool: the objects that are part of targets: with an area, and no stuff."""
        return (self.flags & (DEGENERATE | STUFF)) == 0

    @property
    def tasks(self) -> tuple[str, ...]:
        """What boxes and segments serve: "instance" too where there are objects and each of a target has a segment."""
        counted = self.segmented[self.in_targets]
        return ("detection", "instance") if len(counted) and counted.all() else ("detection",)

    @property
    def bytes(self) -> int:
        arrays = [getattr(self, name) for name in self.__dataclass_fields__]
        arrays = [part for a in arrays for part in ((a.buffer, a.starts) if isinstance(a, PackedText) else (a,))]
        return sum(part.nbytes for part in arrays)


def _gather(starts: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of items that lie one after the other, item i at starts[i]:starts[i + 1]: the places of the contents of the
    `chosen` items, and where each of them starts there."""
    lengths = starts[chosen + 1] - starts[chosen]
    begins = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.repeat(starts[chosen] - begins[:-1], lengths) + np.arange(begins[-1]), begins


def pack_coordinates(values: np.ndarray) -> np.ndarray:
    """int32 hundredths of the float64 values when that is exact for all of them, else the values."""
    hundredths = np.rint(values * 100)
    exact = np.abs(hundredths).max(initial=0) < 2**31 and np.array_equal(hundredths / 100, values)
    return hundredths.astype(np.int32) if exact else values


@dataclass
class AnnotationsBuilder:
    """Collects images and their objects, image by image, and the problems that every format can have.

    `describe(path, object_id)` says where an object is written: (file, place in it).
    """

    describe: Callable[[str, int], tuple[str, str]]
    problems: list[Problem] = field(default_factory=list)
    _paths: list[str] = field(default_factory=list)
    _ids: list[int | str] = field(default_factory=list)
    _sizes: array = field(default_factory=lambda: array("i"))
    _start: array = field(default_factory=lambda: array("q", [0]))
    _boxes: array = field(default_factory=lambda: array("d"))
    _labels: array = field(default_factory=lambda: array("i"))
    _flags: array = field(default_factory=lambda: array("B"))
    _area: array = field(default_factory=lambda: array("d"))
    _object_ids: array = field(default_factory=lambda: array("q"))
    _counts: bytearray = field(default_factory=bytearray)
    _counts_start: array = field(default_factory=lambda: array("q", [0]))
    _ring_first: array = field(default_factory=lambda: array("q", [0]))
    _ring_start: array = field(default_factory=lambda: array("q", [0]))
    _coordinates: array = field(default_factory=lambda: array("d"))

    def add_image(self, path: str, image_id: int | str, size: tuple[int, int]) -> None:
        """The image (height, width) that the objects added from here on belong to."""
        self._paths.append(path)
        self._ids.append(image_id)
        self._sizes.extend(size)
        self._start.append(self._start[-1])

    def add_object(
        self,
        box: Sequence[float],
        label: int,
        object_id: int,
        *,
        area: float | None = None,
        flags: int = 0,
        segment: bytes | Sequence[array | np.ndarray] | None = None,
    ) -> None:
        """One object of the image added last: box xyxy as written, segment as `Annotations.segment` returns it."""
        left, top, right, bottom = box
        if not (right > left and bottom > top):
            flags |= DEGENERATE
        self._boxes.extend(box)
        self._labels.append(label)
        self._flags.append(flags)
        self._area.append(max(right - left, 0) * max(bottom - top, 0) if area is None else area)
        self._object_ids.append(object_id)
        if isinstance(segment, bytes):
            self._counts += segment
        elif segment is not None:
            for ring in segment:
                self._coordinates.extend(ring.tolist())
                self._ring_start.append(len(self._coordinates))
        self._counts_start.append(len(self._counts))
        self._ring_first.append(len(self._ring_start) - 1)
        self._start[-1] += 1

    def finish(self) -> Annotations:
        """The packed arrays; adds to `problems` what is wrong with boxes (rules: docstring of vision.data.check)."""
        integers = all(isinstance(image_id, int) for image_id in self._ids)
        annotations = Annotations(
            paths=PackedText(self._paths),
            ids=np.array(self._ids, np.int64) if integers else PackedText(str(i) for i in self._ids),
            sizes=np.array(self._sizes, np.int32).reshape(-1, 2),
            start=np.array(self._start, np.int64),
            boxes=np.array(self._boxes, np.float64).reshape(-1, 4),
            labels=np.array(self._labels, np.int32),
            flags=np.array(self._flags, np.uint8),
            area=np.array(self._area, np.float64),
            object_ids=np.array(self._object_ids, np.int64),
            counts=np.frombuffer(bytes(self._counts), np.uint8),
            counts_start=np.array(self._counts_start, np.int64),
            ring_first=np.array(self._ring_first, np.int64),
            ring_start=np.array(self._ring_start, np.int64),
            coordinates=pack_coordinates(np.array(self._coordinates, np.float64)),
        )
        self._judge(annotations)
        self._judge_segments(annotations)
        return annotations

    def _judge_segments(self, annotations: Annotations) -> None:
        """A warning where some objects have a mask and others none: the masks serve nothing then."""
        segmented, counted = annotations.segmented, annotations.in_targets
        lacking = np.flatnonzero(counted & ~segmented)
        if len(lacking) and segmented[counted].any():
            value = f"no mask, as {len(lacking)} of {counted.sum()} objects"
            expected = "a mask for each object or for none; all masks are left out, boxes are used"
            self._warn(annotations, lacking[0], value, expected)

    def _warn(self, annotations: Annotations, row: int, value: str, expected: str) -> None:
        owner = int(np.searchsorted(annotations.start, row, side="right")) - 1
        file, where = self.describe(annotations.paths[owner], int(annotations.object_ids[row]))
        self.problems.append(Problem("warning", file, where, value, expected))

    def _judge(self, annotations: Annotations) -> None:
        boxes, flags = annotations.boxes, annotations.flags
        owner = np.repeat(np.arange(len(annotations.sizes)), np.diff(annotations.start))  # (M,)
        limits = annotations.sizes[owner][:, ::-1].astype(np.float64)  # (M, 2) width, height
        degenerate = (flags & DEGENERATE) > 0
        away = ~degenerate & ((boxes[:, :2] >= limits) | (boxes[:, 2:] <= 0)).any(1)
        # annotation tools round: up to a pixel over the edge is cut off without being called a problem
        over = ~degenerate & ~away & ((boxes[:, :2] < -1) | (boxes[:, 2:] > limits + 1)).any(1)
        flags[away] |= DEGENERATE
        for row in np.flatnonzero(degenerate | away | over):
            value = "box " + " ".join(f"{v:g}" for v in boxes[row])
            width, height = limits[row]
            if degenerate[row]:
                expected = "a box with an area; the object is left out"
            elif away[row]:
                expected = f"a box inside the image of {width:g}x{height:g} pixels; the object is left out"
            else:
                expected = f"a box inside the image of {width:g}x{height:g} pixels; it is cut at the edge"
            self._warn(annotations, row, value, expected)
        for row in np.flatnonzero(annotations.area < 0):
            self._warn(annotations, row, f"area {annotations.area[row]:g}", "0 or more; it is used as it is")
