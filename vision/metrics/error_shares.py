"""What detections get wrong, and the AP that fixing it would give: TIDE (Bolya et al., arXiv:2008.08115)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vision.metrics.average_precision import RECALL_THRESHOLDS, Protocol, rank_detections
from vision.metrics.matching import match
from vision.metrics.overlap import Found, Pairs, Truth, overlapping_pairs
from vision.metrics.ranking import rank_by_class
from vision.metrics.table import format_table, note_left_out, null_undefined
from vision.structures import ClassMap

__all__ = ["ERRORS", "ErrorShares", "error_shares"]

ERRORS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)


@dataclass(frozen=True)
class ErrorShares:
    """counts (6, K) int64 of `ERRORS` by class (of the detection; of the object for "missed") · average_precision at
    `iou`, mean over classes · fixed: that mean with one kind of error fixed, by name; also "false_positives" (all
    gone) and "false_negatives" (none missing) · classes_left_out: without an object, in none of the means."""

    classes: ClassMap
    iou: float
    background: float
    counts: np.ndarray
    average_precision: float
    fixed: dict[str, float]
    classes_left_out: int

    def _rows(self) -> dict[str, dict[str, Any]]:
        total = int(self.counts.sum())
        rows = {}
        for name, fixed in self.fixed.items():
            gain = {"AP_fixed": fixed, "dAP": fixed - self.average_precision}
            count = int(self.counts[ERRORS.index(name)].sum()) if name in ERRORS else None
            share = count / total if total and count is not None else None
            rows[name] = {"count": count, "share": share, **gain}
        rows["false_positives"]["count"] = int(self.counts[:MISSED].sum())
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Count, share of all errors, AP when fixed and its gain of each kind; counts by class."""
        per_class = {
            name: {error: self.counts[i, label] for i, error in enumerate(ERRORS)}
            for label, name in enumerate(self.classes.names)
        }
        figures = {"IoU": self.iou, "background_IoU": self.background, "AP": self.average_precision}
        figures["classes_left_out"] = self.classes_left_out
        return null_undefined({**figures, "errors": self._rows(), "per_class": per_class})

    def table(self, style: str = "console") -> str:
        """One row for each kind of error, then the counts by class."""
        rows = [[name, *row.values()] for name, row in self._rows().items()]
        errors = format_table(["error", "count", "share", "AP when fixed", "dAP"], rows, style)
        counts = [[name, *self.counts[:, label].tolist()] for label, name in enumerate(self.classes.names)]
        tables = errors + "\n\n" + format_table(["class", *ERRORS], counts, style)
        return tables + note_left_out(self.classes_left_out, style)


@dataclass(frozen=True)
class Case:
    """Detections and objects after matching: label, score, hit, counts (D,) (False: went to a crowd), error (D,) the
    number in `ERRORS` or -1, goal (D,) the object that the error is about · truth_label, taken, missed (G,),
    positives (K,)."""

    label: Tensor
    score: Tensor
    hit: Tensor
    counts: Tensor
    error: Tensor
    goal: Tensor
    truth_label: Tensor
    taken: Tensor
    missed: Tensor
    positives: Tensor


def error_shares(
    found: Found,
    truth: Truth,
    classes: ClassMap,
    images: int,
    kind: str = "bbox",
    *,
    iou: float = 0.5,
    background: float = 0.1,
    limit: int = 100,
) -> ErrorShares:
    """TIDE of flat detections: matching as COCO's at `iou`, at most `limit` detections by image and class.

    A detection without a match is, in this order: localisation (background <= IoU < iou with an object of its class),
    classification (IoU >= iou with one of another class), duplicate (IoU >= iou with one of its class, which is
    taken), background (IoU < background with all), else both. An object is missed when it has no match and no
    classification or localisation error is about it.
    """
    ranked = rank_detections(found, Protocol(len(classes), images, kind, max_detections=(limit,))).found
    case = _sorted_out(ranked, truth, len(classes), kind, min(iou, 1 - 1e-10), background)
    counts = [torch.bincount(case.label[case.error == i], minlength=len(classes)) for i in range(MISSED)]
    counts.append(torch.bincount(case.truth_label[case.missed], minlength=len(classes)))
    plain = _average_precision(case, case.counts, case.hit)
    fixed = {name: _fixed(case, i) for i, name in enumerate(ERRORS)}
    fixed["false_positives"] = _average_precision(case, case.hit, case.hit)
    hits = torch.bincount(case.label[case.hit], minlength=len(classes))
    fixed["false_negatives"] = _average_precision(case, case.counts, case.hit, positives=hits)
    absent = int((case.positives == 0).sum())
    return ErrorShares(classes, iou, background, torch.stack(counts).cpu().numpy(), plain, fixed, absent)


def _sorted_out(found: Found, truth: Truth, classes: int, kind: str, iou: float, background: float) -> Case:
    truth = truth.select(truth.image.argsort(stable=True))
    pairs = overlapping_pairs(found, truth, (found.image, truth.image), kind, background)
    same = found.label[pairs.found] == truth.label[pairs.truth]
    matches = match(_chosen(pairs, same), truth.crowd[None], truth.crowd, found.box.new_tensor([iou]))
    crowd = truth.crowd[matches.truth]
    hit, ignored = torch.zeros((2, len(found)), dtype=torch.bool, device=crowd.device)
    hit[matches.found], ignored[matches.found] = ~crowd, crowd
    taken = torch.zeros_like(truth.crowd)
    taken[matches.truth] = True
    wrong = ~(hit | ignored)
    asked = wrong[pairs.found] & ~truth.crowd[pairs.truth]
    own, own_goal = _best(_chosen(pairs, asked & same), len(found))
    other, other_goal = _best(_chosen(pairs, asked & ~same), len(found))
    error = torch.full_like(found.label, BOTH)
    error[(own < background) & (other < background)] = BACKGROUND
    error[own >= iou] = DUPLICATE
    error[other >= iou] = CLASSIFICATION
    error[(own >= background) & (own < iou)] = LOCALISATION
    error[~wrong] = -1
    goal = torch.where(error == LOCALISATION, own_goal, other_goal)
    about = (error == LOCALISATION) | (error == CLASSIFICATION)
    covered = torch.zeros_like(taken)
    covered[goal[about]] = True
    positives = torch.bincount(truth.label[~truth.crowd], minlength=classes)
    missed = ~(truth.crowd | taken | covered)
    return Case(found.label, found.score, hit, ~ignored, error, goal, truth.label, taken, missed, positives)


def _chosen(pairs: Pairs, keep: Tensor) -> Pairs:
    index = keep.nonzero()[:, 0]
    return Pairs(pairs.found[index], pairs.truth[index], pairs.overlap[index])


def _best(pairs: Pairs, number: int) -> tuple[Tensor, Tensor]:
    """Highest IoU of each detection (D,), 0 without any, and the object that it is with, the first among equals."""
    overlap = torch.zeros(number, dtype=torch.float64, device=pairs.found.device)
    overlap.scatter_reduce_(0, pairs.found, pairs.overlap, "amax")
    goal = torch.zeros(number, dtype=torch.int64, device=pairs.found.device)
    equal = (pairs.overlap == overlap[pairs.found]).nonzero()[:, 0]
    goal.scatter_reduce_(0, pairs.found[equal], pairs.truth[equal], "amin", include_self=False)
    return overlap, goal


def _fixed(case: Case, error: int) -> float:
    """AP with one kind of error fixed: wrong class or place put right, unless the object has a match or a detection
    of higher score was put there (then dropped); other detections dropped; missed objects no longer expected."""
    if error == MISSED:
        gone = torch.bincount(case.truth_label[case.missed], minlength=len(case.positives))
        return _average_precision(case, case.counts, case.hit, positives=case.positives - gone)
    wrong = case.error == error
    if error not in (CLASSIFICATION, LOCALISATION):
        return _average_precision(case, case.counts & ~wrong, case.hit)
    place = torch.empty_like(case.label)
    place[(-case.score).argsort(stable=True)] = torch.arange(len(place), device=place.device)
    first = torch.full_like(case.truth_label, len(place)).scatter_reduce(0, case.goal[wrong], place[wrong], "amin")
    if not len(first):
        return _average_precision(case, case.counts, case.hit)
    right = wrong & ~case.taken[case.goal] & (first[case.goal] == place)
    label = torch.where(right, case.truth_label[case.goal], case.label)
    return _average_precision(case, case.counts & (right | ~wrong), case.hit | right, label)


def _average_precision(
    case: Case, keep: Tensor, hit: Tensor, label: Tensor | None = None, positives: Tensor | None = None
) -> float:
    """COCO's AP at one IoU, mean over the classes with objects; NaN when there is none."""
    label = case.label if label is None else label
    positives = case.positives if positives is None else positives
    kept = keep.nonzero()[:, 0]
    values = rank_by_class(label[kept], case.score[kept], hit[kept], positives).average_precision(RECALL_THRESHOLDS)
    return float(values.nanmean())
