"""Precision-recall curves of detections, their F1, and the score above which F1 is best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vision.metrics.average_precision import RECALL_THRESHOLDS, Protocol, hits_needed, rank_detections
from vision.metrics.matching import match
from vision.metrics.overlap import Found, Truth, overlapping_pairs
from vision.metrics.ranking import Ranking, rank_by_class
from vision.metrics.table import format_table, note_left_out, null_undefined
from vision.structures import ClassMap

__all__ = ["CurveResult", "best_f1", "precision_recall_curves"]


@dataclass(frozen=True)
class CurveResult:
    """Detections of each class by falling score, right or wrong, at each IoU threshold: one Ranking for each."""

    classes: ClassMap
    ious: tuple[float, ...]
    rankings: tuple[Ranking, ...]

    def curve(self, label: int, iou: float = 0.5) -> dict[str, np.ndarray]:
        """precision, recall, F1 and score after each detection of a class (D_k,) float64, by falling score.

        Where scores are equal, only the last of them can be had by a threshold. recall is NaN without ground truth.
        """
        ranking = self.rankings[self._index(iou)]
        chosen = slice(int(ranking.first[label]), int(ranking.first[label + 1]))
        hits, total = (part[chosen].cpu().double().numpy() for part in (ranking.true_positives, ranking.total))
        number = int(ranking.positives[label])
        recall = hits / number if number else np.full(len(hits), np.nan)
        score = ranking.score[chosen].cpu().double().numpy()
        return {"precision": hits / total, "recall": recall, "F1": 2 * hits / (number + total), "score": score}

    def precision_at_recalls(self, iou: float = 0.5) -> np.ndarray:
        """Highest precision at recall >= 0, 0.01, ... 1 of each class (101, K), as COCO's; NaN without ground truth."""
        ranking = self.rankings[self._index(iou)]
        precision = ranking.read_at(hits_needed(ranking.positives[None], RECALL_THRESHOLDS)[:, 0])
        return torch.where(ranking.positives > 0, precision, torch.nan).cpu().numpy()

    def best(self, iou: float = 0.5) -> dict[str, np.ndarray]:
        """F1, score, precision and recall of each class (K,) at its best score threshold."""
        return {name: values.cpu().numpy() for name, values in best_f1(self.rankings[self._index(iou)]).items()}

    def _index(self, iou: float) -> int:
        for i, known in enumerate(self.ious):
            if abs(known - iou) < 1e-9:
                return i
        raise ValueError(f"CurveResult: no curves at IoU {iou}; there are those at {self.ious}")

    def _best_rows(self) -> list[list[Any]]:
        parts = {iou: self.best(iou) for iou in self.ious}
        return [
            [name, round(iou, 2), *(float(column[label]) for column in best.values())]
            for label, name in enumerate(self.classes.names)
            for iou, best in parts.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Best thresholds and curves (precision at 101 recalls) by class and IoU; an undefined figure is None."""
        content: dict[str, Any] = {}
        for iou in self.ious:
            best, precision = self.best(iou), self.precision_at_recalls(iou)
            defined = best["F1"][~np.isnan(best["F1"])]
            rows = {
                name: {column: values[label] for column, values in best.items()} | {"curve": precision[:, label]}
                for label, name in enumerate(self.classes.names)
            }
            left_out = len(self.classes) - len(defined)
            mean = float(defined.mean()) if len(defined) else None
            content[f"{iou:.2f}"] = {"F1": mean, "classes_left_out": left_out, "per_class": rows}
        return null_undefined({"recalls": RECALL_THRESHOLDS, "by_IoU": content})

    def table(self, style: str = "console") -> str:
        """Best F1 of each class and IoU threshold, and the score that gives it."""
        header = ["class", "IoU", "F1", "at score", "precision", "recall"]
        left_out = int((self.rankings[0].positives == 0).sum())
        return format_table(header, self._best_rows(), style) + note_left_out(left_out, style)


def precision_recall_curves(found: Found, truth: Truth, classes: ClassMap, protocol: Protocol) -> CurveResult:
    """Curves by COCO's matching at `protocol.ious`, all areas, with the most detections that the protocol allows.

    Detections that go to a crowd are left out.
    """
    ranked = rank_detections(found, protocol).found
    truth = truth.select((truth.label * protocol.images + truth.image).argsort(stable=True))
    groups = tuple(one.label * protocol.images + one.image for one in (ranked, truth))
    pairs = overlapping_pairs(ranked, truth, groups, protocol.kind, min(*protocol.ious, 1 - 1e-10))
    thresholds = truth.box.new_tensor(protocol.ious).clamp(max=1 - 1e-10)
    matches = match(pairs, truth.crowd[None], truth.crowd, thresholds)
    positives = torch.bincount(truth.label[~truth.crowd], minlength=len(classes))
    rankings = []
    for i in range(len(protocol.ious)):
        here = (matches.threshold == i).nonzero()[:, 0]
        taken, crowd = matches.found[here], truth.crowd[matches.truth[here]]
        hit, counts = torch.zeros((2, len(ranked)), dtype=torch.bool, device=truth.crowd.device)
        hit[taken] = ~crowd
        counts.fill_(True)[taken] = ~crowd
        kept = counts.nonzero()[:, 0]
        rankings.append(rank_by_class(ranked.label[kept], ranked.score[kept], hit[kept], positives))
    return CurveResult(classes, protocol.ious, tuple(rankings))


def best_f1(ranking: Ranking) -> dict[str, Tensor]:
    """F1, score, precision, recall (K,) float64 of each class where F1 is highest, the highest such score.

    All NaN without ground truth; without a hit F1 and recall are 0 and no score is best (NaN). Only scores that a
    threshold (>=) can tell apart are asked.
    """
    label, score, number = ranking.label, ranking.score, len(ranking.positives)
    last = torch.ones_like(label, dtype=torch.bool)
    last[:-1] = (label[1:] != label[:-1]) | (score[1:] != score[:-1])
    hits, total = ranking.true_positives.double(), ranking.total.double()
    f1 = torch.where(last, 2 * hits / (ranking.positives[label] + total), 0.0)
    best = torch.zeros(number, dtype=torch.float64, device=label.device).scatter_reduce(0, label, f1, "amax")
    reached = ((f1 == best[label]) & (f1 > 0)).nonzero()[:, 0]
    place = torch.full((number,), len(label), device=label.device).scatter_reduce(0, label[reached], reached, "amin")
    none, absent = place == len(label), ranking.positives == 0
    padded = [torch.nn.functional.pad(values, (0, 1))[place] for values in (hits, total, score.double())]
    figures = {
        "F1": best,
        "score": torch.where(none, torch.nan, padded[2]),
        "precision": torch.where(none, torch.nan, padded[0] / padded[1]),
        "recall": padded[0] / ranking.positives,
    }
    return {name: torch.where(absent, torch.nan, values) for name, values in figures.items()}
