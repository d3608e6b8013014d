"""Metrics from files alone: what `vision score` does, for the output of any tool."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Protocol

import torch

from vision.metrics.coco_files import read_case
from vision.metrics.detection_score import DetectionOptions, detection_result
from vision.metrics.mask_files import paired_masks, panoptic_cases, read_index_mask
from vision.metrics.panoptic import PanopticQuality
from vision.metrics.semantic import SemanticResults, semantic_metrics, update_semantic
from vision.structures import ClassMap

__all__ = ["main_score", "score_detections", "score_panoptic", "score_semantic"]


KIND_OF_TASK = {"detection": "bbox", "instance": "segm", "boundary": "boundary"}


class Result(Protocol):
    def to_dict(self) -> dict[str, Any]: ...

    def table(self, style: str = "console") -> str: ...


def main_score(
    task: str,
    truth_path: str | Path,
    predictions_path: str | Path,
    out: str | Path | None = None,
    *,
    classes: ClassMap | list[str] | int | None = None,
    ignore: int = 255,
    max_detections: tuple[int, ...] = (1, 10, 100),
    pycocotools_ids: bool = False,
    protocol: str = "coco",
    analyse: bool = False,
    per_image: bool = False,
    style: str = "console",
) -> int:
    """Write the table of a task's metrics to standard output and, with `out`, the figures to that JSON file; 0.

    task: "detection", "instance" or "boundary" (COCO ground truth and results), "semantic" (two folders of index
    masks), or "panoptic" (two COCO panoptic JSON files beside their PNG folders). protocol, of detections: "coco",
    "voc" or "voc_inclusive"; analyse: their curves, confusion matrix and error shares as well; of masks, outlines and
    connected regions. per_image: semantic figures are means over images. pycocotools_ids: a match with annotation id 0
    counts as none, as there. ValueError, or the system's own error for a file that cannot be read, names the culprit;
    nothing is written then.
    """
    notes: tuple[str, ...] = ()
    if task in KIND_OF_TASK:
        options = DetectionOptions(KIND_OF_TASK[task], protocol, max_detections, analyse)
        result, notes = score_detections(truth_path, predictions_path, options, pycocotools_ids)
    elif task == "semantic":
        result = score_semantic(truth_path, predictions_path, classes, ignore, analyse=analyse, per_image=per_image)
    elif task == "panoptic":
        result = score_panoptic(truth_path, predictions_path)
    else:
        raise ValueError(f"score: task {task!r}; expected detection, instance, boundary, semantic or panoptic")
    figures = result.to_dict()
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")
    sys.stdout.write("\n".join([result.table(style), *(f"note: {note}" for note in notes)]) + "\n")
    return 0


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
    ignore: int = 255,
    *,
    analyse: bool = False,
    per_image: bool = False,
) -> Result:
    """`semantic_metrics` of a folder of masks; without `classes`, they are 0 to the truth's largest value."""
    pairs = paired_masks(truth, predictions)
    known = ClassMap.of(classes) if classes is not None else ClassMap.of(_largest(pairs, ignore) + 1)
    metrics = semantic_metrics(known, ignore, analyse=analyse, per_image=per_image)
    for fact, guess in pairs:
        expected, given = read_index_mask(fact), read_index_mask(guess)
        if expected.shape != given.shape:
            raise ValueError(f"{guess}: {tuple(given.shape)} pixels, but {tuple(expected.shape)} in {fact}")
        beyond = expected[(expected != ignore) & (expected >= len(known))]
        if len(beyond):
            raise ValueError(f"{fact}: value {int(beyond[0])}; expected 0 to {len(known) - 1} or {ignore}")
        update_semantic(metrics, given, expected)
    return SemanticResults({name: metric.compute() for name, metric in metrics.items()})


def _largest(pairs: list[tuple[Path, Path]], ignore: int) -> int:
    largest = 0
    for fact, _ in pairs:
        values = read_index_mask(fact)
        largest = max(largest, int(torch.where(values == ignore, 0, values).max()))
    return largest


def score_panoptic(truth: str | Path, predictions: str | Path) -> Result:
    """Panoptic quality of a COCO panoptic JSON file and its PNGs."""
    classes, cases = panoptic_cases(truth, predictions)
    quality = PanopticQuality(classes)
    for guess, fact in cases:
        quality.update([guess], [fact])
    return quality.compute()
