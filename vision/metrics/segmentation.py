"""Confusion-matrix scores of semantic segmentation: accuracy, IoU, frequency-weighted IoU, Dice, precision, recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vision.metrics.sums import sum_over_processes
from vision.metrics.table import null_undefined, result_table
from vision.structures import ClassMap

__all__ = ["SegmentationResult", "SegmentationScore", "confusion_matrix", "segmentation_figures"]


def confusion_matrix(predicted: Tensor, truth: Tensor, classes: int, ignore: int = 255) -> Tensor:
    """Pixels by true class (row) and predicted class (column): int64 (C, C + 1), on the device of `truth`.

    predicted, truth of equal shape, any integer type. Pixels whose truth is `ignore` are not counted. The last column
    takes predictions that are no class (`ignore` too): wrong, whatever the truth. A truth outside the classes that is
    not `ignore` counts nowhere either. No sorting, no boolean indexing, no wait for the device.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"confusion_matrix: predicted {tuple(predicted.shape)} but truth {tuple(truth.shape)}")
    side = classes + 2  # one more at either end for what lies below and above the classes
    row, column = _narrow(truth, classes), _narrow(predicted, classes)
    codes = (row * side).add_(column).add_(side + 1)
    counts = torch.bincount(codes.flatten(), minlength=side * side).view(side, side)[1:-1]
    if 0 <= ignore < classes:
        counts[ignore] = 0
    counts[:, -1] += counts[:, 0]
    return counts[:, 1:]


def _narrow(labels: Tensor, classes: int) -> Tensor:
    """The labels, those outside of the classes as -1 or `classes`, in the smallest type that holds the codes."""
    small = torch.int16 if (classes + 2) ** 2 < 2**15 else torch.int32
    if labels.dtype in (torch.uint8, torch.int8, torch.int16):  # no value is lost by widening first
        return labels.to(small).clamp_(-1, classes)
    return labels.clamp(-1, classes).to(small)


def segmentation_figures(matrix: Tensor) -> dict[str, Tensor]:
    """Figures of confusion matrices (..., C, C + 1), float64, NaN where undefined.

    A class in neither prediction nor truth has no IoU, Dice, ... and is left out of the means; a class in one of them
    only scores 0. Accuracy of a class (its recall) needs the class in the truth.
    """
    counts = matrix.double()
    hit = counts.diagonal(dim1=-2, dim2=-1)
    true, predicted = counts.sum(-1), counts.sum(-2)[..., : counts.shape[-2]]
    union = true + predicted - hit
    pixels = true.sum(-1)
    iou = hit / union
    share = torch.where(true > 0, true / pixels[..., None], 0.0)
    dice = 2 * hit / (true + predicted)
    return {
        "pixel_accuracy": hit.sum(-1) / pixels,
        "mean_accuracy": (hit / true).nanmean(-1),
        "mIoU": iou.nanmean(-1),
        "FWIoU": torch.where(pixels > 0, (share * iou.nan_to_num()).sum(-1), torch.nan),
        "mean_dice": dice.nanmean(-1),
        "IoU": iou,
        "dice": dice,
        "accuracy": hit / true,
        "precision": hit / predicted,
        "recall": hit / true,
    }


@dataclass(frozen=True)
class SegmentationResult:
    """Figures by name (0-dim, or (C,) by class; NaN = undefined), and the confusion matrix (C, C + 1) int64."""

    classes: ClassMap
    matrix: np.ndarray
    figures: dict[str, np.ndarray]
    averaged_over: str = "data set"

    def to_dict(self) -> dict[str, Any]:
        """The names of `vision evaluate`; undefined figures are None."""
        overall = {name: float(value) for name, value in self.figures.items() if np.ndim(value) == 0}
        names = [name for name, value in self.figures.items() if np.ndim(value) == 1]
        rows = {
            label: {name: float(self.figures[name][i]) for name in names} for i, label in enumerate(self.classes.names)
        }
        undefined = int(np.isnan(self.figures["IoU"]).sum())
        return null_undefined(
            {**overall, "averaged_over": self.averaged_over, "classes_without_IoU": undefined, "per_class": rows}
        )

    def table(self, style: str = "console") -> str:
        """Overall and per-class table: "console", "markdown", "csv" or "json"."""
        return result_table(self.to_dict(), style)


class SegmentationScore:
    """Accumulates a confusion matrix over a data set; a few KB of state on the device of its inputs.

    classes: names, count or ClassMap; ignore: the truth label that is not counted.
    """

    def __init__(self, classes: ClassMap | Sequence[str] | int, ignore: int = 255):
        self.classes = ClassMap.of(classes)
        self.ignore = ignore
        self.reset()

    def reset(self) -> None:
        self.matrix = torch.zeros((len(self.classes), len(self.classes) + 1), dtype=torch.int64)

    def to(self, device: torch.device | str) -> SegmentationScore:
        self.matrix = self.matrix.to(device)
        return self

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Count predicted and truth (B, H, W), or any equal shape, of integer labels. No wait for the device."""
        counted = confusion_matrix(predicted, truth, len(self.classes), self.ignore)
        self.matrix = self.matrix.to(counted.device) + counted

    def merge(self, other: SegmentationScore) -> None:
        """Add what another score has counted."""
        self.matrix = self.matrix + other.matrix.to(self.matrix.device)

    def all_reduce(self) -> None:
        """Sum over the processes of torch.distributed; nothing to do without them."""
        self.matrix = sum_over_processes(self.matrix)

    def compute(self) -> SegmentationResult:
        figures = {name: value.numpy() for name, value in segmentation_figures(self.matrix.cpu()).items()}
        return SegmentationResult(self.classes, self.matrix.cpu().numpy(), figures)
