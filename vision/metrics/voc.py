"""Pascal VOC's average precision (Everingham et al., IJCV 2010; the development kits of VOC2007 to VOC2012)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vision.metrics.detection_metric import DetectionMetric
from vision.metrics.overlap import Found, Truth, overlapping_pairs
from vision.metrics.ranking import Ranking, rank_by_class
from vision.metrics.table import null_undefined, result_table
from vision.structures import ClassMap

__all__ = ["VocAP", "VocResult", "voc_ranking", "voc_result"]


@dataclass(frozen=True)
class VocResult:
    """All-point and 11-point AP of each class (K,), NaN without ground truth that counts; ground truths, detections
    that hit one and that do not, (K,) int64; and by which rules."""

    classes: ClassMap
    area: np.ndarray
    eleven_point: np.ndarray
    positives: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    iou: float
    corners: str

    @property
    def classes_left_out(self) -> int:
        """Classes without a ground truth that counts; they enter no mean."""
        return int((self.positives == 0).sum())

    def to_dict(self) -> dict[str, Any]:
        """AP is the all-point one; an undefined figure is None."""
        rows = {
            name: {"AP": self.area[i], "AP_11_point": self.eleven_point[i], "ground_truths": self.positives[i],
                   "true_positives": self.true_positives[i], "false_positives": self.false_positives[i]}
            for i, name in enumerate(self.classes.names)
        }  # fmt: skip
        counted = self.positives > 0
        means = [float(ap[counted].mean()) if counted.any() else None for ap in (self.area, self.eleven_point)]
        return null_undefined(
            {"protocol": "voc", "IoU": self.iou, "corners": self.corners, "AP": means[0], "AP_11_point": means[1],
             "classes_left_out": self.classes_left_out, "per_class": rows}
        )  # fmt: skip

    def table(self, style: str = "console") -> str:
        """Overall and per-class table: "console", "markdown", "csv" or "json"."""
        return result_table(self.to_dict(), style)


class VocAP(DetectionMetric):
    """VOC's AP: all-point (VOC2010 and later) and 11-point (VOC2007), at one IoU threshold.

    Every detection goes by falling score to the ground truth of its class that it overlaps most, the first among
    equals, and to no other: a hit when IoU >= iou and no detection was there before. Difficult objects and crowds are
    not counted, nor are detections that go to them. No limit of detections per image. corners: "continuous" (xyxy
    as everywhere here; our VOC reader has moved the files' inclusive corners already) or "inclusive" (both corners
    are pixels of the box: sides are one longer, the +1 of VOC's kit).
    """

    settings = ("kind", "iou", "corners")

    def __init__(
        self,
        classes: ClassMap | Sequence[str] | int,
        kind: str = "bbox",
        iou: float = 0.5,
        corners: str = "continuous",
    ):
        super().__init__(classes, kind)
        if not 0 < iou <= 1:
            raise ValueError(f"VocAP: iou {iou}; expected a number in (0, 1]")
        if corners not in ("continuous", "inclusive"):
            raise ValueError(f"VocAP: corners {corners!r}; expected 'continuous' or 'inclusive'")
        self.iou, self.corners = iou, corners

    def compute(self) -> VocResult:
        found, truth, images = self.records.flat()
        return voc_result(found, truth, self.classes, images, self.kind, iou=self.iou, corners=self.corners)


def voc_result(
    found: Found,
    truth: Truth,
    classes: ClassMap,
    images: int,
    kind: str = "bbox",
    *,
    iou: float = 0.5,
    corners: str = "continuous",
) -> VocResult:
    """VOC evaluation of flat detections and ground truths, on their device."""
    if corners == "inclusive":
        longer = found.box.new_tensor([0, 0, 1, 1])
        found, truth = (replace(one, box=one.box + longer) for one in (found, truth))
    ranking = voc_ranking(found, truth, len(classes), images, kind, iou)
    hits = torch.bincount(ranking.label[ranking.hit], minlength=len(classes))
    counts = [ranking.positives, hits, torch.bincount(ranking.label, minlength=len(classes)) - hits]
    figures = [all_point(ranking), eleven_point(ranking), *counts]
    return VocResult(classes, *(figure.cpu().numpy() for figure in figures), iou=iou, corners=corners)


def voc_ranking(found: Found, truth: Truth, classes: int, images: int, kind: str, iou: float) -> Ranking:
    """Detections that count, by class and falling score (equal scores: by image, then as given), right or wrong."""
    found = found.select(found.image.argsort(stable=True))
    found = found.select((-found.score).argsort(stable=True))
    truth = truth.select((truth.label * images + truth.image).argsort(stable=True))
    # VOC has no crowds and one kind of IoU: a crowd is a difficult object
    truth = replace(truth, difficult=truth.difficult | truth.crowd, crowd=torch.zeros_like(truth.crowd))
    groups = tuple(one.label * images + one.image for one in (found, truth))
    pairs = overlapping_pairs(found, truth, groups, kind, iou)
    best = (-pairs.overlap).argsort(stable=True)  # pairs come in the order of the truths: the first among equals leads
    best = best[pairs.found[best].argsort(stable=True)]
    opens = torch.ones_like(best, dtype=torch.bool)
    opens[1:] = pairs.found[best[1:]] != pairs.found[best[:-1]]
    best = best[opens.nonzero()[:, 0]]
    detection, goal = pairs.found[best], pairs.truth[best]
    taker = torch.full((len(truth),), len(found), device=goal.device).scatter_reduce(0, goal, detection, "amin")
    outside = truth.difficult[goal]
    hit = torch.zeros(len(found), dtype=torch.bool, device=goal.device)
    hit[detection] = (taker[goal] == detection) & ~outside
    counts = torch.ones_like(hit)
    counts[detection] = ~outside
    kept = counts.nonzero()[:, 0]
    positives = torch.bincount(truth.label[~truth.difficult], minlength=classes)
    return rank_by_class(found.label[kept], found.score[kept], hit[kept], positives)


def all_point(ranking: Ranking) -> Tensor:
    """Area under the non-increasing precision of each class (K,) float64; NaN without ground truth."""
    precision, _, reached = ranking.precision_at_hits(0.0)
    owner = torch.repeat_interleave(reached)
    total = torch.zeros(len(reached), dtype=torch.float64, device=precision.device).index_add_(0, owner, precision)
    return total / torch.where(ranking.positives > 0, ranking.positives.double(), torch.nan)


def eleven_point(ranking: Ranking) -> Tensor:
    """Mean of the highest precision at recall >= 0, 0.1, ... 1 of each class (K,); a recall of just k / 10 counts."""
    tenths = torch.arange(11, device=ranking.positives.device)[:, None]
    precision = ranking.read_at((tenths * ranking.positives + 9) // 10, 0.0)
    return torch.where(ranking.positives > 0, precision.sum(0) / 11, torch.nan)
