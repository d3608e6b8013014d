"""Metrics from files alone: what `vision score` does, for the output of any tool."""

from __future__ import annotations

import json
import sys
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
    if outlines is not None and task != "semantic":
        raise ValueError(f"score: percentile, tolerance and spacing are of task semantic, not of {task!r}")
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
    truth's values are 0 and 255 alone, and the classes are two or not told, 255 is class 1.
    """
    pairs, notes = paired_masks(truth, predictions)
    number = None if classes is None else len(ClassMap.of(classes))
    values = _values(pairs) if number in (None, 2) else set()
    binary = ignore is None and 255 in values <= {0, 255}
    ignore = 255 if ignore is None else ignore
    known = ClassMap.of(classes if number else 2 if binary else max({0, *values} - {ignore}, default=0) + 1)
    metrics = semantic_metrics(known, ignore, analyse=analyse, per_image=per_image, outlines=outlines)
    ignored = pixels = 0
    for fact, guess in pairs:
        expected, given = _pair(fact, guess, binary)
        beyond = expected[(expected != ignore) & (expected >= len(known))]
        if len(beyond):
            raise ValueError(f"{fact}: value {int(beyond[0])}; expected 0 to {len(known) - 1} or {ignore}")
        ignored, pixels = ignored + int((expected == ignore).sum()), pixels + expected.numel()
        update_semantic(metrics, given, expected)
    if binary:
        notes.append("the truth's values are 0 and 255: 255 is taken for class 1 (--ignore 255: for not counted)")
    if ignored:
        notes.append(f"{ignored / pixels:.2%} of the truth's pixels are {ignore} and not counted")
    return SemanticResults({name: metric.compute() for name, metric in metrics.items()}), tuple(notes)


def _pair(fact: Path, guess: Path, binary: bool) -> tuple[Tensor, Tensor]:
    """True and predicted labels (H, W) int32 of two files; binary: 255 stands for class 1."""
    expected, given = (torch.from_numpy(read_index_mask(path).astype(np.int32)) for path in (fact, guess))
    if expected.shape != given.shape:
        raise ValueError(f"{guess}: {tuple(given.shape)} pixels, but {tuple(expected.shape)} in {fact}")
    return tuple(one.masked_fill(one == 255, 1) for one in (expected, given)) if binary else (expected, given)


def _values(pairs: list[tuple[Path, Path]]) -> set[int]:
    """All values of the truth's masks."""
    return set().union(*(np.unique(read_index_mask(fact)).tolist() for fact, _ in pairs))


def score_panoptic(truth: str | Path, predictions: str | Path) -> Result:
    """Panoptic quality of a COCO panoptic JSON file and its PNGs."""
    return _panoptic_with_notes(truth, predictions)[0]


def _panoptic_with_notes(truth: str | Path, predictions: str | Path) -> tuple[Result, tuple[str, ...]]:
    classes, cases, notes = panoptic_cases(truth, predictions)
    quality = PanopticQuality(classes)
    for guess, fact in cases:
        quality.update([guess], [fact])
    return quality.compute(), tuple(notes)
