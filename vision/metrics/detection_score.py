"""Detection figures by a named protocol, and an analysis on request, for `vision evaluate` and `vision score`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vision.metrics.average_precision import Protocol
from vision.metrics.curves import CurveResult, precision_recall_curves
from vision.metrics.detection import DetectionResult, coco_result
from vision.metrics.detection_confusion import DetectionConfusion, detection_confusion
from vision.metrics.detection_metric import KINDS, DetectionMetric, check_limits
from vision.metrics.error_shares import ErrorShares, error_shares
from vision.metrics.overlap import Found, Truth
from vision.metrics.voc import VocResult, voc_result
from vision.structures import ClassMap

__all__ = ["PROTOCOLS", "DetectionAnalysis", "DetectionOptions", "DetectionScore", "analyse", "detection_result"]

PROTOCOLS = ("coco", "voc", "voc_inclusive")


@dataclass(frozen=True)
class DetectionOptions:
    """kind: "bbox", "segm" or "boundary" · protocol: "coco", "voc" (IoU 0.5, corners as in xyxy here) or
    "voc_inclusive" (both corners are pixels of the box) · max_detections: COCO's limits of detections by image and
    class, rising · analyse: curves, confusion matrix (from `score` on) and error shares too."""

    kind: str = "bbox"
    protocol: str = "coco"
    max_detections: tuple[int, ...] = (1, 10, 100)
    analyse: bool = False
    score: float = 0.25

    def __post_init__(self) -> None:
        for name, allowed in (("kind", KINDS), ("protocol", PROTOCOLS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        check_limits("DetectionOptions", self.max_detections)


@dataclass(frozen=True)
class DetectionAnalysis:
    """AP by the chosen protocol, curves with their best F1, confusion matrix, and error shares."""

    figures: DetectionResult | VocResult
    curves: CurveResult
    confusion: DetectionConfusion
    errors: ErrorShares

    def to_dict(self) -> dict[str, Any]:
        """The figures, and `curves`, `confusion` and `errors` beside them."""
        parts = {name: getattr(self, name).to_dict() for name in ("curves", "confusion", "errors")}
        return {**self.figures.to_dict(), **parts}

    def table(self, style: str = "console") -> str:
        """All tables one after the other: "console", "markdown", "csv" or "json"."""
        if style == "json":
            return json.dumps(self.to_dict(), indent=2)
        parts = (self.figures, self.curves, self.confusion, self.errors)
        return "\n\n".join(part.table(style) for part in parts)


def detection_result(
    found: Found, truth: Truth, classes: ClassMap, images: int, options: DetectionOptions
) -> DetectionResult | VocResult | DetectionAnalysis:
    """Figures of flat detections and ground truths of `images` images, on their device."""
    protocol = Protocol(len(classes), images, options.kind, max_detections=tuple(sorted(options.max_detections)))
    if options.protocol == "coco":
        figures = coco_result(found, truth, classes, protocol)
    else:
        corners = "inclusive" if options.protocol == "voc_inclusive" else "continuous"
        figures = voc_result(found, truth, classes, images, options.kind, corners=corners)
        truth = replace(truth, crowd=truth.crowd | truth.difficult)  # VOC's difficult objects count nowhere
    return analyse(figures, found, truth, classes, protocol, options.score) if options.analyse else figures


def analyse(
    figures: DetectionResult | VocResult,
    found: Found,
    truth: Truth,
    classes: ClassMap,
    protocol: Protocol,
    score: float = 0.25,
) -> DetectionAnalysis:
    """`figures` with what explains them: all by COCO's matching; curves at its thresholds, the rest at IoU 0.5."""
    limit = protocol.max_detections[-1]
    return DetectionAnalysis(
        figures,
        precision_recall_curves(found, truth, classes, protocol),
        detection_confusion(found, truth, classes, protocol.kind, score=score),
        error_shares(found, truth, classes, protocol.images, protocol.kind, limit=limit),
    )


class DetectionScore(DetectionMetric):
    """What `options` name, of detections and ground truths that come in batches."""

    settings = ("options",)

    def __init__(self, classes: ClassMap | Sequence[str] | int, options: DetectionOptions | None = None):
        self.options = options or DetectionOptions()
        super().__init__(classes, self.options.kind)

    def compute(self) -> DetectionResult | VocResult | DetectionAnalysis:
        found, truth, images = self.records.flat()
        return detection_result(found, truth, self.classes, images, self.options)
