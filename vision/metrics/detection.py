"""COCO average precision and recall for boxes and masks: the accumulating metric and its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from vision.metrics.average_precision import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    RECALL_THRESHOLDS,
    Protocol,
    evaluate_detections,
)
from vision.metrics.detection_metric import DetectionMetric, check_limits
from vision.metrics.overlap import Found, Truth
from vision.metrics.table import null_undefined, result_table
from vision.structures import ClassMap

__all__ = ["DetectionAP", "DetectionResult", "coco_result"]


@dataclass(frozen=True)
class DetectionResult:
    """precision (T, R, K, A, M), recall (T, K, A, M), scores (T, R, K, A, M) as pycocotools has them, but NaN where
    a class has no ground truth in an area range; and what the axes are."""

    classes: ClassMap
    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray
    protocol: Protocol

    def average_precision(self, iou: float | None = None, area: str = "all", label: int | None = None) -> float:
        """Mean precision over thresholds (or one), recall points and classes (or one), with the most detections."""
        chosen = self.precision[self._thresholds(iou), :, _labels(label), list(AREA_RANGES).index(area), -1]
        return _mean(chosen)

    def average_recall(self, limit: int = -1, area: str = "all", label: int | None = None) -> float:
        """Mean of the largest recalls over thresholds and classes; `limit` is an index into the detection limits."""
        return _mean(self.recall[:, _labels(label), list(AREA_RANGES).index(area), limit])

    def _thresholds(self, iou: float | None) -> slice | np.ndarray:
        if iou is None:
            return slice(None)
        return np.flatnonzero(np.isclose(self.protocol.ious, iou, rtol=0, atol=1e-9))

    def figures(self, label: int | None = None) -> dict[str, float]:
        """AP, AP50, AP75, AP_small, ..., AR_1, ..., AR_large over all classes, or of one; NaN = undefined."""
        precision = {"AP": (None, "all"), "AP50": (0.5, "all"), "AP75": (0.75, "all")}
        precision |= {f"AP_{area}": (None, area) for area in ("small", "medium", "large")}
        figures = {name: self.average_precision(*key, label=label) for name, key in precision.items()}
        for i, limit in enumerate(self.protocol.max_detections):
            figures[f"AR_{limit}"] = self.average_recall(i, label=label)
        return figures | {f"AR_{a}": self.average_recall(area=a, label=label) for a in ("small", "medium", "large")}

    @property
    def classes_left_out(self) -> int:
        """Classes without a ground truth that counts; they enter no mean."""
        return int(np.isnan(self.recall[0, :, 0, -1]).sum())

    def to_dict(self) -> dict[str, Any]:
        """The names of `vision evaluate`; an undefined figure is None."""
        rows = {name: self.figures(label) for label, name in enumerate(self.classes.names)}
        figures = {**self.figures(), "classes_left_out": self.classes_left_out, "per_class": rows}
        return null_undefined(figures)

    def table(self, style: str = "console") -> str:
        """Overall and per-class table: "console", "markdown", "csv" or "json"."""
        return result_table(self.to_dict(), style)


def _labels(label: int | None) -> slice:
    return slice(None) if label is None else slice(label, label + 1)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def coco_result(found: Found, truth: Truth, classes: ClassMap, protocol: Protocol) -> DetectionResult:
    """COCO evaluation of flat detections and ground truths, on their device."""
    arrays = evaluate_detections(found, truth, protocol)
    arrays = {name: _undefined_as_nan(value) for name, value in arrays.items()}
    return DetectionResult(classes, **arrays, protocol=protocol)


def _undefined_as_nan(values: Tensor) -> np.ndarray:
    array = values.cpu().numpy()
    array[array == -1] = np.nan
    return array


class DetectionAP(DetectionMetric):
    """COCO AP and AR of boxes (kind "bbox") or masks ("segm"), with arrays equal to pycocotools bit for bit.

    Kind "boundary" is boundary AP (Cheng et al., arXiv:2103.16562): the lesser of the masks' IoU and that of the bands
    along their outlines, 2 % of the image's diagonal wide.

    classes: names, count or ClassMap. max_detections: detections that count, by image and class, rising.
    """

    settings = ("kind", "protocol.max_detections", "protocol.ious", "protocol.recalls")

    def __init__(
        self,
        classes: ClassMap | Sequence[str] | int,
        kind: str = "bbox",
        max_detections: Sequence[int] = (1, 10, 100),
        ious: Sequence[float] = IOU_THRESHOLDS,
        recalls: Sequence[float] = RECALL_THRESHOLDS,
    ):
        super().__init__(classes, kind)
        check_limits("DetectionAP", max_detections)
        if not ious or min(ious) <= 0 or max(ious) > 1:
            raise ValueError(f"DetectionAP: IoU thresholds {tuple(ious)}; expected values in (0, 1]")
        self.protocol = Protocol(
            len(self.classes),
            0,
            kind,
            tuple(sorted(ious)),
            tuple(recalls),
            max_detections=tuple(sorted(max_detections)),
        )

    def compute(self) -> DetectionResult:
        found, truth, images = self.records.flat()
        return coco_result(found, truth, self.classes, replace(self.protocol, images=images))
