"""Panoptic quality (Kirillov et al., arXiv:1801.00868) with the void and crowd rules of panopticapi."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vision.metrics.confusion import check_labels
from vision.metrics.sums import check_mergeable
from vision.metrics.table import null_undefined, result_table
from vision.ops.histogram import count_values
from vision.ops.reduce import sum_over_processes
from vision.structures import ClassMap

__all__ = ["PanopticMap", "PanopticQuality", "PanopticResult", "panoptic_map"]


@dataclass(frozen=True)
class PanopticMap:
    """One image cut into segments: ids (H, W) integers >= 0, and a row for each segment: segment_ids (S,), labels
    (S,), crowd (S,) bool or None (truth only). A pixel whose id has no row is void."""

    ids: Tensor
    segment_ids: Tensor
    labels: Tensor
    crowd: Tensor | None = None


def panoptic_map(labels: Tensor, instances: Tensor, ignore: int = 255) -> PanopticMap:
    """A PanopticMap from class labels (H, W) and instance numbers (H, W) >= 0; pixels labelled `ignore` are void."""
    many = int(instances.max()) + 1 if instances.numel() else 1
    ids = torch.where(labels == ignore, 0, labels.int() * many + instances.int() + 1)
    present = torch.bincount(ids.flatten()).nonzero()[:, 0]
    present = present[present > 0]
    return PanopticMap(ids, present, torch.div(present - 1, many, rounding_mode="floor"))


def _segment_numbers(one: PanopticMap) -> Tensor:
    """For each pixel the row of its segment + 1, 0 = void: (H * W,) int32."""
    ids = one.ids.flatten()
    known = one.segment_ids.to(ids.device, non_blocking=True).long()
    return _by_table(ids, known) if ids.device.type == "cpu" else _by_search(ids, known)


def _by_table(ids: Tensor, known: Tensor) -> Tensor:
    # a table over all ids that occur beats a search for each pixel; ids of RGB PNGs end below 2**24
    largest = int(torch.maximum(ids.max(), known.max() if len(known) else ids.max())) if ids.numel() else 0
    table = torch.zeros(largest + 1, dtype=torch.int32)
    table[known] = torch.arange(1, len(known) + 1, dtype=torch.int32)
    return table.index_select(0, ids if ids.dtype in (torch.int32, torch.int64) else ids.int())


def _by_search(ids: Tensor, known: Tensor) -> Tensor:
    # nobody looks at the largest id, for which a GPU would have to be waited for
    if not len(known):
        return torch.zeros_like(ids, dtype=torch.int32)
    ordered, rows = known.sort()
    ids = ids.long()
    place = torch.searchsorted(ordered, ids).clamp_(max=len(known) - 1)
    return torch.where(ordered[place] == ids, rows[place].int() + 1, 0)


def segment_overlaps(predicted: PanopticMap, truth: PanopticMap) -> Tensor:
    """Pixels shared by true segment (row) and predicted segment (column): (G + 1, P + 1) int64, 0 = void."""
    if predicted.ids.shape != truth.ids.shape:
        raise ValueError(f"PanopticQuality: predicted {tuple(predicted.ids.shape)}, truth {tuple(truth.ids.shape)}")
    rows, columns = len(truth.segment_ids) + 1, len(predicted.segment_ids) + 1
    codes = _segment_numbers(truth).mul_(columns).add_(_segment_numbers(predicted))
    return count_values(codes, rows * columns).view(rows, columns)


def match_segments(overlaps: Tensor, predicted: Tensor, truth: Tensor, crowd: Tensor, classes: int) -> Tensor:
    """Sums by class (4, C) float64: IoU of matches, true positives, false positives, false negatives.

    overlaps (G + 1, P + 1) from `segment_overlaps`; labels predicted (P,), truth (G,); crowd (G,) bool. Segments of one
    class match at IoU > 0.5, void taken off the union. A crowd is never missed; an unmatched prediction is no false
    positive when more than half of it lies in void and the last crowd of its class. Empty predictions do not count.
    """
    shared, void = overlaps[1:, 1:], overlaps[0, 1:]
    area = overlaps.sum(0)[1:]
    union = area + overlaps.sum(1)[1:, None] - shared - void
    iou = shared.double() / union.clamp(min=1)
    matched = (truth[:, None] == predicted) & ~crowd[:, None] & (iou > 0.5)  # (G, P)
    same_crowd = (truth[:, None] == predicted) & crowd[:, None]
    last = same_crowd & (same_crowd.flip(0).cumsum(0).flip(0) == 1)
    excused = void + (shared * last).sum(0)
    alarm = ~matched.any(0) & (excused.double() / area.clamp(min=1) <= 0.5) & (area > 0)
    missed = ~matched.any(1) & ~crowd
    sums = overlaps.new_zeros((4, classes), dtype=torch.float64)
    sums[0].index_add_(0, truth, (iou * matched).sum(1))
    sums[1].index_add_(0, truth, matched.any(1).double())
    sums[2].index_add_(0, predicted, alarm.double())
    sums[3].index_add_(0, truth, missed.double())
    return sums


@dataclass(frozen=True)
class PanopticResult:
    """By class (C,), NaN where neither prediction nor truth has the class: PQ, SQ, RQ; sums (4, C) behind them."""

    classes: ClassMap
    PQ: np.ndarray
    SQ: np.ndarray
    RQ: np.ndarray
    sums: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """PQ, SQ, RQ over all classes, over things, over stuff, by class; undefined is None."""
        things = np.array(self.classes.things)
        figures: dict[str, Any] = {}
        for suffix, chosen in (("", things | True), ("_things", things), ("_stuff", ~things)):
            for name in ("PQ", "SQ", "RQ"):
                values = getattr(self, name)[chosen]
                values = values[~np.isnan(values)]
                figures[name + suffix] = float(values.mean()) if values.size else None
        figures["classes_left_out"] = int(np.isnan(self.PQ).sum())
        columns = {"PQ": self.PQ, "SQ": self.SQ, "RQ": self.RQ}
        counts = dict(zip(("TP", "FP", "FN"), self.sums[1:].astype(int)))
        rows = {
            name: {key: column[i].item() for key, column in (columns | counts).items()}
            for i, name in enumerate(self.classes.names)
        }
        return null_undefined({**figures, "per_class": rows})

    def table(self, style: str = "console") -> str:
        """Overall and per-class table: "console", "markdown", "csv" or "json"."""
        return result_table(self.to_dict(), style)


class PanopticQuality:
    """Accumulates panoptic quality over a data set; the state is (4, C) sums on the device of its inputs."""

    def __init__(self, classes: ClassMap | Sequence[str] | int):
        self.classes = ClassMap.of(classes)
        self.reset()

    def reset(self) -> None:
        self.sums = torch.zeros((4, len(self.classes)), dtype=torch.float64)

    def to(self, device: torch.device | str) -> PanopticQuality:
        self.sums = self.sums.to(device)
        return self

    def update(self, predicted: Sequence[PanopticMap], truth: Sequence[PanopticMap]) -> None:
        """Take in the maps of a batch of images and what is true of them, in the same order."""
        if len(predicted) != len(truth):
            raise ValueError(f"PanopticQuality.update: {len(predicted)} predicted maps but {len(truth)} of truth")
        for guess, fact in zip(predicted, truth):
            device = guess.ids.device
            crowd = torch.zeros(len(fact.labels), dtype=torch.bool) if fact.crowd is None else fact.crowd
            overlaps = segment_overlaps(guess, fact)
            for one in (guess, fact):
                check_labels("PanopticQuality.update", one.labels, len(self.classes))
            labels = [one.labels.to(device, non_blocking=True).long() for one in (guess, fact)]
            crowd = crowd.to(device, non_blocking=True)
            self.sums = self.sums.to(device) + match_segments(overlaps, *labels, crowd, len(self.classes))

    def merge(self, other: PanopticQuality) -> None:
        """Add what another metric of the same classes has counted."""
        check_mergeable(self, other)
        self.sums = self.sums + other.sums.to(self.sums.device)

    def all_reduce(self) -> None:
        """Sum over the processes of torch.distributed; nothing to do without them."""
        self.sums = sum_over_processes(self.sums)

    def compute(self) -> PanopticResult:
        sums = self.sums.cpu().numpy()
        iou, hits, alarms, missed = sums
        known = hits + alarms + missed > 0
        total = np.where(known, hits + alarms / 2 + missed / 2, np.nan)
        quality = np.where(known, iou / np.maximum(hits, 1), np.nan)  # 0 without a match, as in panopticapi
        return PanopticResult(self.classes, iou / total, quality, hits / total, sums)
