"""Metrics: each has `update`, `compute()` -> result, `merge`, `all_reduce`, `reset`, `to`."""

from vision.metrics.detection import DetectionAP, DetectionResult
from vision.metrics.segmentation import SegmentationResult, SegmentationScore, confusion_matrix

__all__ = ["DetectionAP", "DetectionResult", "SegmentationResult", "SegmentationScore", "confusion_matrix"]
