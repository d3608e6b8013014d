"""What all detection metrics share: they remember detections and ground truths, and count when asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch

from vision.metrics.confusion import check_labels
from vision.metrics.records import DetectionRecords
from vision.metrics.sums import check_mergeable
from vision.structures import ClassMap, Detections, Target

__all__ = ["KINDS", "DetectionMetric", "check_limits"]

KINDS = ("bbox", "segm", "boundary")


def check_limits(name: str, limits: Sequence[int]) -> None:
    """ValueError unless limits of detections are some whole numbers of 1 or more."""
    if not limits or not all(isinstance(limit, Integral) and limit >= 1 for limit in limits):
        raise ValueError(f"{name}: max_detections {tuple(limits)}; expected whole numbers of 1 or more")


class DetectionMetric(ABC):
    """State of a metric over boxes (kind "bbox"), masks ("segm"), or masks and their outlines ("boundary").

    classes: names, count or ClassMap. State stays on the device of the detections; images are put in the order of
    their ids when computing, so neither the order of updates nor their distribution over processes changes the result
    (ids that are equal keep their order). `settings`: what has to be equal in metrics that merge, besides the classes.
    """

    settings: tuple[str, ...] = ("kind",)

    def __init__(self, classes: ClassMap | Sequence[str] | int, kind: str = "bbox"):
        if kind not in KINDS:
            raise ValueError(f"{type(self).__name__}: kind {kind!r}; expected one of {KINDS}")
        self.classes = ClassMap.of(classes)
        self.kind = kind
        self.reset()

    def reset(self) -> None:
        self.records = DetectionRecords(self.kind)

    def to(self, device: torch.device | str) -> DetectionMetric:
        self.records.to(device)
        return self

    def update(self, detections: Sequence[Detections], targets: Sequence[Target]) -> None:
        """Take in one batch: results and truth of the same images, in the same order and frame of coordinates."""
        for label in [one.labels for one in detections] + [torch.as_tensor(one.labels) for one in targets]:
            check_labels(f"{type(self).__name__}.update", label, len(self.classes))
        self.records.append(detections, targets)

    def merge(self, other: DetectionMetric) -> None:
        """Take in what another metric of the same settings has seen; ValueError for other settings."""
        check_mergeable(self, other, *self.settings)
        self.records.extend(other.records)

    def all_reduce(self) -> None:
        """Every process of torch.distributed gets what all have seen; nothing to do without them."""
        self.records.all_gather()

    @abstractmethod
    def compute(self) -> Any:
        """The result over all that was taken in: `to_dict()` and `table(style)`."""
