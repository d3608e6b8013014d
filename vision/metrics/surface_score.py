"""Outline distances of segmentations over a data set, by image and class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vision.metrics.confusion import check_label_maps, is_ignored
from vision.metrics.outlines import label_boundary_iou, label_outline
from vision.metrics.sums import check_mergeable, gather_states
from vision.metrics.surface import distance_figures, point_distances
from vision.metrics.table import null_undefined, result_table
from vision.ops.histogram import count_values
from vision.structures import ClassMap

__all__ = ["OutlineOptions", "SurfaceDistance", "SurfaceResult"]


@dataclass(frozen=True)
class OutlineOptions:
    """spacing: size of a pixel along each axis, rows first · percentile: beside the Hausdorff distance, 0 to
    100 · tolerance of surface Dice, in units of spacing."""

    spacing: tuple[float, ...] = (1.0, 1.0)
    percentile: float = 95.0
    tolerance: float = 1.0


@dataclass(frozen=True)
class SurfaceResult:
    """values (I, C, 5): by image and class, Hausdorff distance, their `percentile`, average distance, surface Dice,
    boundary IoU; NaN = undefined, the class in neither mask."""

    classes: ClassMap
    values: np.ndarray
    percentile: float = 95.0
    spacing: tuple[float, ...] = (1.0, 1.0)
    tolerance: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        return ("hausdorff", f"hd{self.percentile:g}", "assd", "surface_dice", "boundary_iou")

    def to_dict(self) -> dict[str, Any]:
        """Means over images, then over classes. An image with a class in one mask only makes its mean distance
        infinite: written "infinity", counted in `infinite`, with `..._finite` the mean of the other images."""
        by_class = [self._figures(self.values[:, label]) for label in range(len(self.classes))]
        overall = {name: _mean([row[name] for row in by_class]) for name in self.names}
        overall |= {f"{name}_finite": _mean([row[f"{name}_finite"] for row in by_class]) for name in self.names[:3]}
        overall |= {name: sum(row[name] for row in by_class) for name in ("infinite", "undefined")}
        rows = dict(zip(self.classes.names, by_class))
        rules = {"averaged_over": "images, then classes", "spacing": self.spacing, "tolerance": self.tolerance}
        return null_undefined(_spelled({**overall, **rules, "per_class": rows}))

    def _figures(self, values: np.ndarray) -> dict[str, Any]:
        figures = {name: _mean(values[:, i]) for i, name in enumerate(self.names)}
        finite = np.where(np.isinf(values), np.nan, values)
        figures |= {f"{name}_finite": _mean(finite[:, i]) for i, name in enumerate(self.names[:3])}
        infinite, undefined = int(np.isinf(values[:, 0]).sum()), int(np.isnan(values[:, 0]).sum())
        return figures | {"infinite": infinite, "undefined": undefined}

    def table(self, style: str = "console") -> str:
        """Overall and per-class table: "console", "markdown", "csv" or "json"."""
        return result_table(self.to_dict(), style)


def _mean(values: Sequence[float]) -> float:
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _spelled(value: Any) -> Any:
    """JSON has no infinity: the word stands for it."""
    if isinstance(value, dict):
        return {key: _spelled(item) for key, item in value.items()}
    return "infinity" if isinstance(value, float) and value == float("inf") else value


class SurfaceDistance:
    """Hausdorff distance, HD95 (or another percentile), average symmetric surface distance, surface Dice and boundary
    IoU, for each image and class.

    spacing: size of a pixel along each axis, two or three; percentile: 0 to 100; tolerance in units of spacing; what
    is labelled `ignore` in the truth is taken out of both masks, and `ignore` is no class (with `ignore` below 0, nor
    are other labels beyond the classes, else an error). State on the device of its inputs.
    """

    def __init__(
        self,
        classes: ClassMap | Sequence[str] | int,
        spacing: Sequence[float] = (1.0, 1.0),
        *,
        percentile: float = 95.0,
        tolerance: float = 1.0,
        ignore: int = 255,
    ):
        self.classes = ClassMap.of(classes)
        if len(spacing) not in (2, 3) or not all(0 < step < math.inf for step in spacing):
            raise ValueError(f"SurfaceDistance: spacing {tuple(spacing)}; expected two or three sizes above 0")
        if not 0 <= percentile <= 100:
            raise ValueError(f"SurfaceDistance: percentile {percentile}; expected 0 to 100")
        if not tolerance >= 0:
            raise ValueError(f"SurfaceDistance: tolerance {tolerance}; expected a distance of 0 or more")
        self.spacing, self.percentile, self.tolerance, self.ignore = tuple(spacing), percentile, tolerance, ignore
        self.reset()

    def reset(self) -> None:
        self.values: list[Tensor] = []  # (B, C, 5) float64 each

    def to(self, device: torch.device | str) -> SurfaceDistance:
        self.values = [value.to(device) for value in self.values]
        return self

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Measure predicted and truth labels (B, H, W), or (B, D, H, W) with three spacings.

        A GPU is waited for three times, whatever B: for the places of both outlines and for how many each class has.
        """
        if predicted.shape != truth.shape or predicted.ndim != len(self.spacing) + 1:
            raise ValueError(
                f"SurfaceDistance.update: predicted {tuple(predicted.shape)}, truth {tuple(truth.shape)}; expected "
                f"equal shapes of {len(self.spacing) + 1} axes"
            )
        number = len(self.classes)
        check_label_maps("SurfaceDistance.update", predicted, truth, number, self.ignore)
        if not len(truth):
            return
        counted = ~is_ignored(truth, self.ignore)
        labels = [
            torch.where(counted & (one >= 0) & (one < number) & ~is_ignored(one, self.ignore), one, number)
            for one in (predicted, truth)
        ]
        points, counts = zip(*(self._outlines(one) for one in labels))
        counts = torch.stack(counts).tolist()  # one wait for all images
        groups = [places.split(number_each) for places, number_each in zip(points, counts)]
        rows = [
            distance_figures(*point_distances(*pair, truth.shape[1:], self.spacing), self.percentile, self.tolerance)
            for pair in zip(*groups)
        ]
        distances = torch.stack(rows).view(len(truth), number + 1, 4)[:, :-1]
        if truth.ndim == 3:
            iou = label_boundary_iou(*labels, number)
        else:
            iou = distances.new_full(distances.shape[:2], torch.nan)
        self.values.append(torch.cat([distances, iou[..., None]], -1))

    def _outlines(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Outline places (N, D) sorted by image and class, and how many: (B * (C + 1),), the last class for none."""
        side = len(self.classes) + 1
        places = label_outline(labels, len(self.spacing)).logical_and_(labels < side - 1).nonzero()
        group = places[:, 0] * side + labels[tuple(places.T)]
        return places[group.argsort(stable=True), 1:], count_values(group, len(labels) * side)

    def merge(self, other: SurfaceDistance) -> None:
        """Take in what another metric of the same settings has measured."""
        check_mergeable(self, other, "spacing", "percentile", "tolerance", "ignore")
        self.values += other.values

    def all_reduce(self) -> None:
        """Every process of torch.distributed gets what all have measured; nothing to do without them."""
        states = gather_states([value.cpu() for value in self.values])
        self.values = [value for values in states for value in values]

    def compute(self) -> SurfaceResult:
        values = [value.cpu().numpy() for value in self.values] or [np.zeros((0, len(self.classes), 5))]
        return SurfaceResult(self.classes, np.concatenate(values), self.percentile, self.spacing, self.tolerance)
