"""Outline distances of segmentations over a data set, by image and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from vision.metrics.boundary import boundary_iou
from vision.metrics.sums import gather_objects
from vision.metrics.surface import surface_figures
from vision.metrics.table import null_undefined, result_table
from vision.structures import ClassMap

__all__ = ["SurfaceDistance", "SurfaceResult"]

NAMES = ("hausdorff", "hd95", "assd", "surface_dice", "boundary_iou")


@dataclass(frozen=True)
class SurfaceResult:
    """values (I, C, 5): by image and class, the figures of NAMES; NaN = undefined, the class in neither mask."""

    classes: ClassMap
    values: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Means over images, then over classes. An image with a class in one mask only makes its mean distance
        infinite: written "infinity", counted in `infinite`, with `..._finite` the mean of the other images."""
        by_class = [self._figures(self.values[:, label]) for label in range(len(self.classes))]
        distances = NAMES[:3]
        overall = {name: _mean([row[name] for row in by_class]) for name in NAMES}
        overall |= {f"{name}_finite": _mean([row[f"{name}_finite"] for row in by_class]) for name in distances}
        overall |= {name: sum(row[name] for row in by_class) for name in ("infinite", "undefined")}
        rows = dict(zip(self.classes.names, by_class))
        return null_undefined(_spelled({**overall, "averaged_over": "images, then classes", "per_class": rows}))

    def _figures(self, values: np.ndarray) -> dict[str, Any]:
        figures = {name: _mean(values[:, i]) for i, name in enumerate(NAMES)}
        finite = np.where(np.isinf(values), np.nan, values)
        figures |= {f"{name}_finite": _mean(finite[:, i]) for i, name in enumerate(NAMES[:3])}
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

    spacing: size of a pixel along each axis, two or three; tolerance in its units; labels (255) to ignore in the truth
    are taken out of both masks.
    """

    def __init__(
        self,
        classes: ClassMap | Sequence[str] | int,
        spacing: Sequence[float] = (1.0, 1.0),
        *,
        share: float = 95.0,
        tolerance: float = 1.0,
        ignore: int = 255,
    ):
        self.classes = ClassMap.of(classes)
        self.spacing, self.share, self.tolerance, self.ignore = tuple(spacing), share, tolerance, ignore
        self.reset()

    def reset(self) -> None:
        self.values: list[np.ndarray] = []

    def to(self, device: Any) -> SurfaceDistance:
        """Nothing to move: distances are measured where the masks are, and kept as a few numbers on the host."""
        return self

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Measure predicted and truth labels (B, H, W), or (B, D, H, W) with three spacings."""
        if predicted.shape != truth.shape or predicted.ndim != len(self.spacing) + 1:
            raise ValueError(
                f"SurfaceDistance.update: predicted {tuple(predicted.shape)}, truth {tuple(truth.shape)}; expected "
                f"equal shapes of {len(self.spacing) + 1} axes"
            )
        kept = truth != self.ignore
        for one, other, keep in zip(predicted, truth, kept):
            rows = [self._measure((one == c) & keep, (other == c) & keep) for c in range(len(self.classes))]
            self.values.append(np.array(rows))

    def _measure(self, predicted: Tensor, truth: Tensor) -> list[float]:
        figures = surface_figures(predicted, truth, self.spacing, share=self.share, tolerance=self.tolerance)
        iou = float(boundary_iou(predicted[None], truth[None])[0]) if predicted.ndim == 2 else float("nan")
        return [*(figures[name] for name in NAMES[:4]), iou]

    def merge(self, other: SurfaceDistance) -> None:
        """Take in what another metric has measured."""
        self.values += other.values

    def all_reduce(self) -> None:
        """Every process of torch.distributed gets what all have measured; nothing to do without them."""
        self.values = [value for values in gather_objects(self.values) for value in values]

    def compute(self) -> SurfaceResult:
        shape = (-1, len(self.classes), len(NAMES))
        return SurfaceResult(self.classes, np.array(self.values, np.float64).reshape(shape))
