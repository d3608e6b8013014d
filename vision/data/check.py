"""`vision check DATA`: everything that is wrong or unusual in a data set, by file and place.

Rules, each with its test. An error has to be mended before the data set can be used; a warning says what is left out
or mended; a note says how something unusual is read.

error    a file that is named but missing · a truncated or unreadable image · an image of another size than annotated
         · an unknown category, class or image id · a repeated image id · a mask value or colour without a class · a
         mask of another size than its image · a panoptic segment in the PNG that the JSON does not know · numbers of
         YOLO that are pixels · a split without annotations
warning  a box without an area, or outside of the image (left out) · a box that passes the edge by more than a pixel
         (cut) · a repeated annotation id (both kept) · a negative area (used as it is) · a ring of under 3 points (left
         out) · an image without a panoptic entry, or of VOC without list and XML (left out) · a label file or XML that
         no list names without an image, or a line that repeats another (left out) · a segment without pixels · an
         image in train and in val
note     images without objects · classes absent from a split · category ids with gaps · grey (three equal channels),
         16 bits (upper 8), alpha (dropped) · EXIF orientation (applied; not when the annotations are made for the
         pixels as stored) · masks of 0 and 255 alone (255 is the second class) · masks or YOLO files without names
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import numpy as np

from vision.data.card import Card
from vision.data.dataset import Dataset, count_labels
from vision.data.image import image_size
from vision.data.part import named_part, take_part
from vision.data.problem import DataError, Problem, as_problem
from vision.data.source import find_card, open_dataset, read_split, split_name, splits_present
from vision.data.voc import has_boxes
from vision.ops.open_image import open_image

__all__ = ["CheckReport", "check_dataset", "inspect_dataset", "main_check", "report"]

SHOWN = 20  # lines of one kind that a report prints in full


@dataclass
class CheckReport:
    """What a check found: one line on each split, the problems, and whether some part could not be read at all."""

    splits: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unreadable: bool = False

    def count(self, severity: str) -> int:
        return sum(problem.severity == severity for problem in self.problems)

    @property
    def exit_code(self) -> int:
        """0: nothing but notes · 1: errors or warnings · 2: a part of the data set could not be read."""
        return 2 if self.unreadable else int(self.count("error") + self.count("warning") > 0)


def check_dataset(data: str | Path, split: str | None = None) -> list[Problem]:
    """All problems of all splits (or of one, or a part of one as "train:80%"), images and masks decoded.

    DataError when there is no such data set.
    """
    return inspect_dataset(data, split).problems


def main_check(data: str | Path, split: str | None = None, stream: TextIO | None = None) -> int:
    """Writes the report to `stream` (default: standard output); the exit code. DataError as `check_dataset`."""
    import sys

    found = inspect_dataset(data, split)
    (stream or sys.stdout).write(report(found))
    return found.exit_code


def report(found: CheckReport) -> str:
    """The report as text: the splits, the problems by severity, and their number; many notes alike are one."""
    lines = list(found.splits)
    told_of: dict[str, int] = {}
    for severity in ("error", "warning", "note"):
        before = len(lines)
        chosen = [problem for problem in found.problems if problem.severity == severity]
        kinds = Counter((problem.value, problem.expected) for problem in chosen)
        told: Counter = Counter()
        for problem in chosen:
            kind = (problem.value, problem.expected)
            told[kind] += 1
            if severity == "note" and kinds[kind] > 3 and told[kind] > 1:
                continue  # the first of many alike speaks for them
            more = f" (and {kinds[kind] - 1} more like this)" if severity == "note" and kinds[kind] > 3 else ""
            lines.append(f"{severity:8s} {problem}{more}")
        told_of[severity] = len(lines) - before
    lines = _shortened(lines)
    counts = ", ".join(f"{count} {severity}s" for severity, count in told_of.items())
    return "\n".join([*lines, counts]) + "\n"


def inspect_dataset(data: str | Path, split: str | None = None) -> CheckReport:
    """The check itself, as a CheckReport."""
    found = CheckReport()
    if str(data).partition(":")[0] == "shapes" and not Path(data).exists():
        dataset = open_dataset(data, split)
        found.splits.append(f"{data}: {len(dataset)} generated images, nothing to check")
        return found
    card = find_card(data)
    split, share = named_part(split)
    images: dict[str, set[str]] = {}
    classes: dict[str | None, tuple[str, tuple[str, ...]]] = {}  # by task: the first split and its classes
    decoded: set[str] = set()  # images of several splits or tasks are looked at once
    for name in [split_name(card, split, data)] if split else splits_present(card):
        for task in _views(card, name):
            try:
                dataset = read_split(card, name, task)
                dataset = dataset if share is None else take_part(dataset, share)
            except DataError as error:
                found.unreadable = True
                found.problems.append(as_problem(error, str(error).partition(": ")[0], "what can be read"))
                continue
            first, known = classes.setdefault(task, (name, dataset.classes.names))
            if dataset.classes.names != known:
                value = f"classes {', '.join(dataset.classes.names)}"
                expected = f"{', '.join(known)} as in split {first}"
                found.problems.append(Problem("error", dataset.name, f"split {name}", value, expected))
            paths = {dataset.annotations.paths[i] for i in range(len(dataset))}
            _inspect_split(dataset, found, paths - decoded)
            decoded |= paths
            images.setdefault(name, set()).update(paths)
    found.problems += _leaks(images)
    found.problems = list(dict.fromkeys(found.problems))
    return found


def _views(card: Card, split: str) -> list[str | None]:
    """The tasks under which a split has annotations of its own."""
    keys = set(card.splits[split])
    if card.format == "coco" and {"annotations", "panoptic"} <= keys:
        return [None, "panoptic"]
    if card.format == "voc":
        views = ["detection"] if has_boxes(card.splits[split]) else []
        views += ["semantic"] if "segmentation_list" in keys else []
        objects = "semantic" in views and (card.root / "SegmentationObject").is_dir()
        return [*views, "instance"] if objects else views
    return [None]


def _inspect_split(dataset: Dataset, found: CheckReport, decode: set[str]) -> None:
    found.problems += dataset.problems
    objects = "semantic" not in dataset.tasks  # a panoptic split is summed up by its pixels, things and stuff
    if not len(dataset):
        found.problems.append(Problem("error", dataset.name, dataset.split, "an empty data set", "at least one image"))
        return
    pixels = np.zeros(len(dataset.classes), np.int64)
    errors = found.count("error")
    for problems, counts in _in_threads(dataset, decode):
        found.problems += problems
        pixels += counts
    counts = dataset.label_counts() if objects else pixels
    found.problems += _of_the_split(dataset, counts, objects)
    if not counts.sum() and found.count("error") == errors:
        value = "a split without annotations"
        found.problems.append(Problem("error", f"{dataset.name} {dataset.split}", "", value, "some objects or classes"))
    found.splits.append(_summary(dataset, counts, objects))


def _in_threads(dataset: Dataset, decode: set[str]) -> Iterator[tuple[list[Problem], np.ndarray]]:
    from tqdm import tqdm

    def inspect(index: int) -> tuple[list[Problem], np.ndarray]:
        chosen = dataset.annotations.paths[index] in decode
        problems = list(_image_problems(dataset, index)) if chosen else []
        counts = np.zeros(len(dataset.classes), np.int64)
        if "semantic" in dataset.tasks:
            problems += _mask_problems(dataset, index, counts)
        return problems, counts

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        results = threads.map(inspect, range(len(dataset)))
        yield from tqdm(results, total=len(dataset), desc=f"{dataset.name} {dataset.split}", leave=False, disable=None)


def _image_problems(dataset: Dataset, index: int) -> Iterator[Problem]:
    path = str(dataset.image_path(index))
    if not os.path.exists(path):
        return  # told by the reader
    try:
        dataset.image(index)
    except DataError as error:
        yield as_problem(error, path, "an image that can be used")
        return
    for value, expected in _unusual(path, dataset.size(index)):
        yield Problem("note", path, "", value, expected)


def _unusual(path: str, size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    with open_image(path) as image:
        mode, orientation = image.mode, image.getexif().get(0x0112, 1)
    if mode in ("1", "L", "LA", "I", "I;16", "I;16B", "F"):
        yield "grey image", "colour; read as three equal channels"
    if mode in ("I", "I;16", "I;16B"):
        yield "16 bits a channel", "8; the upper 8 are used"
    if mode in ("LA", "RGBA", "PA"):
        yield "alpha channel", "none; it is dropped"
    if mode == "CMYK":
        yield "CMYK image", "RGB; it is converted"
    if orientation in range(2, 9):
        as_stored = image_size(path) != size
        used = "annotated for the pixels as stored, used so" if as_stored else "applied"
        yield f"EXIF orientation {orientation}", f"1 (upright); {used}"


def _mask_problems(dataset: Dataset, index: int, counts: np.ndarray) -> list[Problem]:
    """Problems of the image's semantic or panoptic mask; adds its pixels of each class to `counts`."""
    if dataset.class_masks is not None:
        path = dataset.class_masks.paths[index]
    else:
        path = dataset.segment_masks.paths[index]
    if not os.path.exists(path):
        return []
    try:
        problems = _segment_problems(dataset, index, path) if dataset.class_masks is None else []
        counts += count_labels(dataset.semantic(index), len(counts))
        return problems
    except DataError as error:
        problem = as_problem(error, path, "a mask that can be used")
        for what in ("value", "colour"):
            if dataset.class_masks is not None and f"mask {what} " in str(error):
                problem = replace(problem, where=f"{len(dataset.class_masks.unknown_values(index))} {what}(s)")
        return [problem]


def _segment_problems(dataset: Dataset, index: int, path: str) -> list[Problem]:
    ids, known, _, _ = dataset.panoptic(index)
    present = set(np.unique(ids).tolist()) - {0}
    stated = set(known.tolist())
    problems = [
        Problem("error", path, "", f"segment id {segment}", "an id in segments_info of this image")
        for segment in sorted(present - stated)
    ]
    for segment in sorted(stated - present):
        problems.append(Problem("warning", path, "", f"no pixel of segment {segment}", "at least one of each segment"))
    return problems


def _of_the_split(dataset: Dataset, counts: np.ndarray, objects: bool) -> Iterable[Problem]:
    origin, ids = f"{dataset.name} {dataset.split}", dataset.classes.ids
    absent = [name for name, count in zip(dataset.classes.names, counts) if count == 0]
    if absent and counts.sum():
        named = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
        value = f"{len(absent)} of {len(counts)} classes absent ({named})"
        yield Problem("note", origin, "", value, "every class in every split; their metrics are undefined")
    gaps = max(ids) - min(ids) + 1 - len(ids)
    if gaps:
        value = f"category ids {min(ids)}..{max(ids)} with {gaps} gaps"
        yield Problem("note", origin, "", value, f"any ids; labels are 0..{len(ids) - 1} in their order")
    if objects:
        for index in range(len(dataset)):
            path = str(dataset.image_path(index))
            empty = dataset.annotations.start[index] == dataset.annotations.start[index + 1]
            if empty and os.path.exists(path):  # the reader tells of those that are missing
                yield Problem("note", path, "", "no objects", "any number; used as an image without objects")


def _summary(dataset: Dataset, counts: np.ndarray, objects: bool) -> str:
    unit = "objects" if objects else "pixels"
    order = np.argsort(-counts, kind="stable")[:12]
    shares = ", ".join(f"{dataset.classes.names[k]} {counts[k]}" for k in order if counts[k])
    more = ", ..." if (counts > 0).sum() > len(order) else ""
    tasks = ", ".join(sorted(dataset.tasks))
    return f"{dataset.name} {dataset.split} ({tasks}): {len(dataset)} images; {unit}: {shares}{more}"


def _leaks(images: dict[str, set[str]]) -> list[Problem]:
    shared = sorted(images.get("train", set()) & images.get("val", set()))
    return [Problem("warning", path, "", "an image in train and in val", "no image in both") for path in shared]


def _shortened(lines: list[str]) -> list[str]:
    """At most SHOWN lines of a severity."""
    seen: Counter = Counter(line.split()[0] for line in lines)
    told: Counter = Counter()
    shown = []
    for line in lines:
        kind = line.split()[0]
        told[kind] += 1
        if kind not in ("error", "warning", "note") or told[kind] <= SHOWN:
            shown.append(line)
        elif told[kind] == SHOWN + 1:
            shown.append(f"{kind:8s} ... and {seen[kind] - SHOWN} more")
    return shown
