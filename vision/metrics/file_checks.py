"""What files of other tools can get wrong, told by file and entry before anything is counted.

Every check looks at whole columns, which is fast; only after one has failed is the entry looked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

__all__ = ["Entries", "check_categories", "check_panoptic", "check_results", "check_truth", "kind_hint"]

NUMBERS = {int, float}
ID = {int, float, str}
_ABSENT = object()


@dataclass(frozen=True)
class Entries:
    """Dictionaries in a list of a file; messages call the third one "PATH: KEY[2]"."""

    path: str | Path
    key: str
    rows: list[dict]

    def __post_init__(self) -> None:
        if not isinstance(self.rows, list):
            raise ValueError(f"{self.path}: {self.key} is no list; expected a list of entries")
        for number, row in enumerate(self.rows):
            if type(row) is not dict:
                self.refuse(number, f"{row!r:.60}; expected a dictionary")

    def refuse(self, number: int, fault: str) -> NoReturn:
        raise ValueError(f"{self.path}: {self.key}[{number}]: {fault}")

    def name(self, row: dict) -> str:
        """Where `row`, one of the rows themselves, stands."""
        return f"{self.path}: {self.key}[{next(i for i, one in enumerate(self.rows) if one is row)}]"

    def column(self, field: str, kinds: set[type], expected: str, absent: Any = _ABSENT) -> list:
        """The values of a field, all of the given types; `absent` stands for a missing one, else that is an error."""
        values = [row.get(field, absent) for row in self.rows]
        if not set(map(type, values)) <= kinds:
            number = next(i for i, value in enumerate(values) if type(value) not in kinds)
            self._refuse_value(number, field, values[number], expected)
        return values

    def unique(self, field: str) -> None:
        """No value of a field twice; rows without the field do not count."""
        values = {number: row[field] for number, row in enumerate(self.rows) if field in row}
        if len(set(values.values())) < len(values):
            seen: set = set()
            number = next(i for i, value in values.items() if value in seen or seen.add(value))
            self.refuse(number, f"{field} {values[number]!r} for the second time; expected every {field} once")

    def numbers(self, field: str, absent: Any = _ABSENT) -> None:
        values = self.column(field, NUMBERS, "a finite number", absent)
        finite = np.isfinite(np.array(values, np.float64))
        if not finite.all():
            number = int(finite.argmin())
            self._refuse_value(number, field, values[number], "a finite number")

    def boxes(self, needed: Iterable[bool] | None = None) -> None:
        """`bbox` of the rows that need one: four finite numbers."""
        values = [row.get("bbox", _ABSENT) for row in self.rows]
        if needed is not None:
            values = [value if need else [0, 0, 0, 0] for value, need in zip(values, needed)]
        if not _are_boxes(values):
            number = next(i for i, value in enumerate(values) if not _are_boxes([value]))
            self._refuse_value(number, "bbox", values[number], "four finite numbers: x, y, width, height")

    def masks(self) -> None:
        """`segmentation`: polygons, or a run-length dictionary, whose lengths are not looked at."""
        for number, row in enumerate(self.rows):
            mask = row.get("segmentation", _ABSENT)
            if not (_is_run_length(mask) if type(mask) is dict else _is_polygons(mask)):
                expected = "polygons of three or more corners, or run lengths with size and counts"
                self._refuse_value(number, "segmentation", mask, expected)

    def _refuse_value(self, number: int, field: str, value: Any, expected: str) -> NoReturn:
        came = f"no {field!r}" if value is _ABSENT else f"{field} {value!r:.60}"
        self.refuse(number, f"{came}; expected {expected}")


def _are_boxes(values: list) -> bool:
    if not set(map(type, values)) <= {list} or not set(map(len, values)) <= {4}:
        return False
    sides = list(chain.from_iterable(values))
    return set(map(type, sides)) <= NUMBERS and bool(np.isfinite(np.array(sides, np.float64)).all())


def _is_run_length(mask: dict) -> bool:
    size, counts = mask.get("size"), mask.get("counts")
    if type(size) is not list or len(size) != 2 or not set(map(type, size)) <= {int}:
        return False
    return type(counts) is str or (type(counts) is list and set(map(type, counts)) <= {int})


def _is_polygons(mask: Any) -> bool:
    # pycocotools takes four numbers for a box, without a word
    return (
        type(mask) is list
        and bool(mask)
        and all(
            type(one) is list
            and len(one) >= 6
            and len(one) % 2 == 0
            and set(map(type, one)) <= NUMBERS
            and math.isfinite(sum(one))
            for one in mask
        )
    )


def check_categories(path: str | Path, rows: list[dict]) -> None:
    """ValueError names the entry of `categories` without id or name, or with one that another has."""
    categories = Entries(path, "categories", rows)
    categories.column("id", {int}, "a whole number")
    categories.column("name", {str, int}, "a name")
    categories.unique("id")
    categories.unique("name")


def check_truth(path: str | Path, content: dict, kind: str) -> Entries:
    """The annotations of COCO ground truth that is fit for kind "bbox", "segm" or "boundary"; ValueError else."""
    check_categories(path, content["categories"])
    images = Entries(path, "images", content["images"])
    ids = images.column("id", ID, "a number or text")
    texts = [type(one) is str for one in ids]
    if len(set(texts)) > 1:
        images.refuse(
            texts.index(not texts[0]), "id is text where others are numbers, or a number where others are text"
        )
    images.unique("id")
    annotations = Entries(path, "annotations", content["annotations"])
    annotations.column("image_id", ID, "a number or text")
    annotations.column("category_id", NUMBERS, "a number")
    annotations.column("id", ID, "a number or text", absent=0)
    for mark in ("iscrowd", "difficult"):
        annotations.column(mark, {int, float, bool}, "0 or 1", absent=0)
    annotations.numbers("area", absent=0)
    annotations.boxes([kind == "bbox" or "area" not in row for row in annotations.rows])
    if kind != "bbox":
        for side in ("height", "width"):
            images.column(side, {int}, "a whole number")
        annotations.masks()
    annotations.unique("id")
    return annotations


def check_results(path: str | Path, rows: list[dict], kind: str, truth_path: str | Path, images: Iterable) -> Entries:
    """The results, when they are fit for `kind` and all of images of the truth; ValueError else."""
    results = Entries(path, "results", rows)
    _check_known(path, results.column("image_id", ID, "a number or text"), truth_path, images)
    results.column("category_id", NUMBERS, "a number")
    results.numbers("score")
    if kind == "bbox" or any(row.get("bbox") for row in rows):
        results.boxes()
    if kind != "bbox":
        results.masks()
    return results


def _check_known(path: str | Path, ids: Iterable, truth_path: str | Path, images: Iterable) -> None:
    known = set(images)
    strangers = sorted(set(ids) - known, key=str)
    if not strangers:
        return
    some = ", ".join(map(repr, strangers[:5])) + kind_hint(strangers, known)
    raise ValueError(f"{path}: image_id {some} not in {truth_path} ({len(strangers)} unknown)")


def kind_hint(ids: Iterable, truth: Iterable) -> str:
    """What to add to a message when the ids are text where the truth's are numbers, or the reverse."""
    kinds = [{isinstance(one, str) for one in side} for side in (ids, truth)]
    if kinds not in ([{True}, {False}], [{False}, {True}]):
        return ""
    return " (text, where the truth has numbers)" if kinds[0] == {True} else " (numbers, where the truth has text)"


def check_panoptic(path: str | Path, rows: list[dict]) -> None:
    """ValueError names the entry of a panoptic file's `annotations`, or of its segments, that is not fit."""
    annotations = Entries(path, "annotations", rows)
    annotations.column("image_id", ID, "a number or text")
    annotations.column("file_name", {str}, "the name of a PNG file")
    annotations.column("segments_info", {list}, "a list of segments")
    annotations.unique("image_id")
    for number, row in enumerate(rows):
        segments = Entries(path, f"annotations[{number}].segments_info", row["segments_info"])
        ids = segments.column("id", {int}, "a whole number")
        segments.column("category_id", {int}, "a whole number")
        segments.unique("id")
        if ids and min(ids) < 0:
            segments.refuse(ids.index(min(ids)), f"id {min(ids)}; expected 0 or more")
