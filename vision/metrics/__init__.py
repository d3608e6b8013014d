"""Metrics: each has `update`, `compute() -> result` (`to_dict`, `table`), `merge`, `all_reduce`, `reset`, `to`."""

from vision.metrics.confusion import confusion_matrix
from vision.metrics.detection import DetectionAP, DetectionResult
from vision.metrics.detection_score import DetectionOptions, DetectionScore
from vision.metrics.outlines import boundary_iou
from vision.metrics.panoptic import PanopticMap, PanopticQuality, PanopticResult, panoptic_map
from vision.metrics.rand import RandResult, RandScore
from vision.metrics.segmentation import SegmentationResult, SegmentationScore
from vision.metrics.surface import surface_figures
from vision.metrics.surface_score import OutlineOptions, SurfaceDistance, SurfaceResult
from vision.metrics.voc import VocAP, VocResult

__all__ = [
    "DetectionAP",
    "DetectionOptions",
    "DetectionResult",
    "DetectionScore",
    "OutlineOptions",
    "PanopticMap",
    "PanopticQuality",
    "PanopticResult",
    "RandResult",
    "RandScore",
    "SegmentationResult",
    "SegmentationScore",
    "SurfaceDistance",
    "SurfaceResult",
    "VocAP",
    "VocResult",
    "boundary_iou",
    "confusion_matrix",
    "panoptic_map",
    "surface_figures",
]
