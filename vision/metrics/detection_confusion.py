"""Which classes detections take for which: a confusion matrix with "missed" and "false alarm"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vision.metrics.matching import match
from vision.metrics.overlap import Found, Pairs, Truth, overlapping_pairs
from vision.metrics.table import format_table, null_undefined
from vision.structures import ClassMap

__all__ = ["DetectionConfusion", "detection_confusion"]


@dataclass(frozen=True)
class DetectionConfusion:
    """matrix (K + 1, K + 1) int64: rows are the truth, the last one "false alarm" (nothing there); columns what was
    detected, the last one "missed". score, iou: from which on a detection counts, and matches."""

    classes: ClassMap
    matrix: np.ndarray
    score: float
    iou: float

    def to_dict(self) -> dict[str, Any]:
        """The matrix, and recall and precision of each class at this score; an undefined figure is None."""
        right = np.diag(self.matrix)[:-1]
        found, there = self.matrix.sum(0)[:-1], self.matrix.sum(1)[:-1]
        rows = {
            name: {
                "right": right[i], "confused": there[i] - right[i] - self.matrix[i, -1], "missed": self.matrix[i, -1],
                "false_alarms": self.matrix[-1, i], "recall": _share(right[i], there[i]),
                "precision": _share(right[i], found[i]),
            }
            for i, name in enumerate(self.classes.names)
        }  # fmt: skip
        names = list(self.classes.names)
        axes = {"rows": [*names, "false alarm"], "columns": [*names, "missed"]}
        return null_undefined({"score": self.score, "IoU": self.iou, **axes, "matrix": self.matrix, "per_class": rows})

    def table(self, style: str = "console") -> str:
        """The matrix: one row for each true class, one column for each detected one."""
        names = self.classes.names
        rows = [[name, *row] for name, row in zip([*names, "false alarm"], self.matrix.tolist())]
        return format_table(["truth \\ detected", *names, "missed"], rows, style)


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else float("nan")


def detection_confusion(
    found: Found,
    truth: Truth,
    classes: ClassMap,
    kind: str = "bbox",
    *,
    iou: float = 0.5,
    score: float = 0.25,
) -> DetectionConfusion:
    """Detections with at least `score` choose by falling score among all objects of their image, whatever the class.

    Each takes the free one of highest IoU >= iou, the later among equals. What goes to a crowd of its own class is
    left out; other classes' crowds take nothing.
    """
    found = found.select((found.score >= score).nonzero()[:, 0])
    found = found.select((-found.score).argsort(stable=True))
    found = found.select(found.image.argsort(stable=True))
    truth = truth.select(truth.image.argsort(stable=True))
    pairs = overlapping_pairs(found, truth, (found.image, truth.image), kind, min(iou, 1 - 1e-10))
    allowed = ~truth.crowd[pairs.truth] | (truth.label[pairs.truth] == found.label[pairs.found])
    chosen = allowed.nonzero()[:, 0]
    pairs = Pairs(pairs.found[chosen], pairs.truth[chosen], pairs.overlap[chosen])
    matches = match(pairs, truth.crowd[None], truth.crowd, found.box.new_tensor([min(iou, 1 - 1e-10)]))
    number = len(classes)
    detected = torch.full_like(truth.label, number)  # missed
    detected[matches.truth] = found.label[matches.found]
    false_alarm = torch.ones_like(found.label, dtype=torch.bool)
    false_alarm[matches.found] = False
    real = ~truth.crowd
    codes = torch.cat(
        [truth.label[real] * (number + 1) + detected[real], number * (number + 1) + found.label[false_alarm]]
    )
    matrix = torch.bincount(codes, minlength=(number + 1) ** 2).reshape(number + 1, number + 1)
    return DetectionConfusion(classes, matrix.cpu().numpy(), score, iou)
