"""Metrics from files alone: what `vision score` does, for the output of any tool."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vision.metrics.coco_files import read_case
from vision.metrics.detection_score import DetectionOptions, detection_result
from vision.metrics.mask_files import paired_masks, panoptic_cases
from vision.metrics.panoptic import PanopticQuality
from vision.metrics.semantic import SemanticResults, semantic_metrics, update_semantic
from vision.metrics.surface_score import OutlineOptions
from vision.ops.stored_masks import read_index_mask
from vision.structures import ClassMap

__all__ = ["main_score", "score_detections", "score_panoptic", "score_semantic"]


KIND_OF_TASK = {"detection": "bbox", "instance": "segm", "boundary": "boundary"}


class Result(Protocol):
    def to_dict(self) -> dict[str, Any]: ...

    def table(self, style: str = "console") -> str: ...


def main_score(
    task: str, truth_path: str | Path, predictions_path: str | Path, out: str | Path | None = None, *,
    classes: ClassMap | list[str] | int | None = None, ignore: int | None = None,
    max_detections: tuple[int, ...] = (1, 10, 100), pycocotools_ids: bool = False, protocol: str = "coco",
    analyse: bool = False, per_image: bool = False, outlines: OutlineOptions | None = None, style: str = "console",
) -> int:  # fmt: skip
    """Write the table of a task's metrics to standard output and, with `out`, the figures to that JSON file; 0.

    task: "detection", "instance" or "boundary" (COCO ground truth and results), "semantic" (two folders of index
    masks), or "panoptic" (two COCO panoptic JSON files beside their PNG folders). protocol, of detections: "coco",
    "voc" or "voc_inclusive"; analyse: their curves, confusion matrix and error shares as well; of masks, outlines (as
    `outlines` says) and connected regions. classes, ignore, per_image: as in `score_semantic`. pycocotools_ids: a match
    with annotation id 0 counts as none, as there. What was left out is told in notes, in the file under `notes`.
    ValueError, or the system's own error for a file that cannot be read, names the culprit; nothing is written then.
    """
    notes: tuple[str, ...] = ()
    of_maps = {"percentile, tolerance, spacing": outlines, "classes": classes, "ignore": ignore}
    misplaced = [name for name, value in of_maps.items() if value is not None] + ["per_image"] * per_image
    if misplaced and task != "semantic":
        raise ValueError(f"score: {', '.join(misplaced)} given for task {task!r}; expected them for semantic alone")
    if task in KIND_OF_TASK:
        options = DetectionOptions(KIND_OF_TASK[task], protocol, max_detections, analyse)
        result, notes = score_detections(truth_path, predictions_path, options, pycocotools_ids)
    elif task == "semantic":
        choices = {"analyse": analyse, "per_image": per_image, "outlines": outlines}
        result, notes = score_semantic(truth_path, predictions_path, classes, ignore, **choices)
    elif task == "panoptic":
        result, notes = _panoptic_with_notes(truth_path, predictions_path)
    else:
        raise ValueError(f"score: task {task!r}; expected detection, instance, boundary, semantic or panoptic")
    figures = result.to_dict() | ({"notes": list(notes)} if notes else {})
    text = json.dumps(figures, indent=2, allow_nan=False)
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(text + "\n")
    _print(text if style == "json" else result.table(style), notes, style)
    return 0


def _print(text: str, notes: tuple[str, ...], style: str) -> None:
    """Tables to standard output, and notes too, unless another program shall read it."""
    sys.stdout.write(text + "\n")
    stream = sys.stdout if style in ("console", "markdown") else sys.stderr
    stream.writelines(f"note: {note}\n" for note in notes)


def score_detections(
    truth: str | Path, results: str | Path, options: DetectionOptions, zero_ids: bool = False
) -> tuple[Result, tuple[str, ...]]:
    """Figures of a COCO results file, and notes on what was left out."""
    case = read_case(truth, results, options.kind, zero_ids)
    return detection_result(case.found, case.truth, case.classes, case.images, options), case.notes


def score_semantic(
    truth: str | Path,
    predictions: str | Path,
    classes: ClassMap | list[str] | int | None = None,
    ignore: int | None = None,
    *,
    analyse: bool = False,
    per_image: bool = False,
    outlines: OutlineOptions | None = None,
) -> tuple[Result, tuple[str, ...]]:
    """`semantic_metrics` of a folder of masks, and notes on what was left out or guessed.

    Without `classes`, they are 0 to the truth's largest value. Without `ignore`, 255 is not counted; but where the
    truth's values are 0 and 255 alone, and the classes are two or not told, 255 is class 1. In predictions it is so too
    where their values are 0 and 255 alone and the classes two.
    """
    pairs, notes = paired_masks(truth, predictions)
    number = None if classes is None else len(ClassMap.of(classes))
    values = _values(fact for fact, _ in pairs) if number in (None, 2) else set()
    guessing, ignore = ignore is None, 255 if ignore is None else ignore
    binary = guessing and 255 in values <= {0, 255}
    known = ClassMap.of(classes if number else 2 if binary else max({0, *values} - {ignore}, default=0) + 1)
    of_two = guessing and not binary and len(known) == 2 and values <= {0, 1, 255}
    white = of_two and 255 in _values(guess for _, guess in pairs) <= {0, 255}
    metrics = semantic_metrics(known, ignore, analyse=analyse, per_image=per_image, outlines=outlines)
    tally = _Tally(len(known), ignore)
    for fact, guess in pairs:
        expected, given = _pair(fact, guess)
        expected = expected.masked_fill(expected == 255, 1) if binary else expected
        given = given.masked_fill(given == 255, 1) if binary or white else given
        tally.add(expected, given, fact)
        update_semantic(metrics, given, expected)
    if binary:
        notes.append("the truth's values are 0 and 255: 255 is taken for class 1 (--ignore 255: for not counted)")
    if white:
        notes.append("the predictions' values are 0 and 255: 255 is taken for class 1 (--ignore 255: for no class)")
    results = {name: metric.compute() for name, metric in metrics.items()}
    return SemanticResults(results), (*notes, *tally.notes())


@dataclass
class _Tally:
    """Pixels whose truth is `ignore`, and others whose prediction is no class (`example` is the value of one)."""

    classes: int
    ignore: int
    pixels: int = 0
    ignored: int = 0
    stray: int = 0
    example: int = 0

    def add(self, expected: Tensor, given: Tensor, path: Path) -> None:
        """ValueError names the file of the truth for a value that is neither class nor `ignore`."""
        counted = expected != self.ignore
        beyond = expected[counted & (expected >= self.classes)]
        if len(beyond):
            raise ValueError(f"{path}: value {int(beyond[0])}; expected 0 to {self.classes - 1} or {self.ignore}")
        strays = given[counted & ((given >= self.classes) | (given == self.ignore))]
        self.pixels, self.ignored = self.pixels + expected.numel(), self.ignored + int((~counted).sum())
        self.stray, self.example = self.stray + len(strays), int(strays[0]) if len(strays) else self.example

    def notes(self) -> list[str]:
        notes = []
        if self.ignored:
            notes.append(f"{self.ignored / self.pixels:.2%} of the truth's pixels are {self.ignore} and not counted")
        if self.stray:
            share = self.stray / (self.pixels - self.ignored)
            notes.append(f"{share:.2%} of the predicted pixels are no class, as {self.example}, and count as wrong")
        return notes


def _pair(fact: Path, guess: Path) -> tuple[Tensor, Tensor]:
    """True and predicted labels (H, W) int32 of two files."""
    expected, given = (torch.from_numpy(read_index_mask(path).astype(np.int32)) for path in (fact, guess))
    if expected.shape != given.shape:
        raise ValueError(f"{guess}: {tuple(given.shape)} pixels, but {tuple(expected.shape)} in {fact}")
    return expected, given


def _values(paths: Iterable[Path]) -> set[int]:
    """All values of masks."""
    return set().union(*(np.unique(read_index_mask(path)).tolist() for path in paths))


def score_panoptic(truth: str | Path, predictions: str | Path) -> Result:
    """Panoptic quality of a COCO panoptic JSON file and its PNGs."""
    return _panoptic_with_notes(truth, predictions)[0]


def _panoptic_with_notes(truth: str | Path, predictions: str | Path) -> tuple[Result, tuple[str, ...]]:
    classes, cases, notes = panoptic_cases(truth, predictions)
    quality = PanopticQuality(classes)
    for guess, fact in cases:
        quality.update([guess], [fact])
    return quality.compute(), tuple(notes)
