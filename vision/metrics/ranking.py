"""Detections of each class by falling score, right or wrong: what precision-recall curves are read from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vision.metrics.average_precision import envelope, hits_needed
from vision.metrics.runs import exclusive_sum

__all__ = ["Ranking", "rank_by_class"]


@dataclass(frozen=True)
class Ranking:
    """Detections that count, by class and falling score: label, score (D,), hit (D,) bool, true_positives, total (D,)
    up to and with each one in its class · positives (K,): ground truths that count."""

    label: Tensor
    score: Tensor
    hit: Tensor
    true_positives: Tensor
    total: Tensor
    positives: Tensor

    def precision_at_hits(self, added: float) -> tuple[Tensor, Tensor, Tensor]:
        """Non-increasing precision at each hit (H,), the first hit of each class and how many it has (K,)."""
        hits = self.hit.nonzero()[:, 0]
        reached = torch.bincount(self.label[hits], minlength=len(self.positives))
        precision = envelope(self.true_positives[hits], self.total[hits], self.label[hits], added)
        return precision, exclusive_sum(reached)[:-1], reached

    def read_at(self, needed: Tensor, added: float = np.spacing(1)) -> Tensor:
        """Non-increasing precision where a class has `needed` (R, K) hits; 0 where it never has them."""
        precision, first, reached = self.precision_at_hits(added)
        needed = needed.clamp(min=1)
        attained = needed <= reached
        index = torch.where(attained, first + needed - 1, 0)
        return torch.where(attained, torch.nn.functional.pad(precision, (0, 1))[index], 0.0)

    def average_precision(self, recalls: tuple[float, ...]) -> Tensor:
        """COCO's AP of each class (K,) float64: mean precision over recall points; NaN without ground truth."""
        precision = self.read_at(hits_needed(self.positives[None], recalls)[:, 0])
        return torch.where(self.positives > 0, precision.mean(0), torch.nan)

    @property
    def first(self) -> Tensor:
        """First detection of each class, and the number of all (K + 1,)."""
        return exclusive_sum(torch.bincount(self.label, minlength=len(self.positives)))


def rank_by_class(label: Tensor, score: Tensor, hit: Tensor, positives: Tensor) -> Ranking:
    """Detections (D,) in any order, right (`hit`) or wrong, of classes with `positives` (K,) ground truths each.

    Equal scores keep their order.
    """
    by_score = (-score).argsort(stable=True)
    order = by_score[label[by_score].argsort(stable=True)]
    label, hit = label[order], hit[order]
    first = exclusive_sum(torch.bincount(label, minlength=len(positives)))[:-1]
    before = exclusive_sum(hit.long())
    total = torch.arange(1, len(label) + 1, device=label.device) - first[label]
    return Ranking(label, score[order], hit, before[1:] - before[first][label], total, positives)
