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
from vision.ops.histogram import count_values
from vision.structures import ClassMap

__all__ = ["SegmentationResult", "SegmentationScore", "confusion_matrix", "segmentation_figures"]

_AT_ONCE = 1 << 19  # pixels; also keeps OpenCV's float32 counts exact


def confusion_matrix(predicted: Tensor, truth: Tensor, classes: int, ignore: int = 255) -> Tensor:
    """Pixels by true class (row) and predicted class (column): int64 (C, C + 1), on the device of `truth`.

    predicted, truth of equal shape, any integer type. Pixels whose truth is `ignore` are not counted. The last column
    takes predictions that are no class (`ignore` too): wrong, whatever the truth. A truth outside the classes that is
    not `ignore` counts nowhere either. No sorting, no boolean indexing, no wait for the device.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"confusion_matrix: predicted {tuple(predicted.shape)} but truth {tuple(truth.shape)}")
    if truth.device.type == "cpu" and classes < 255:
        counts = _counts_on_host(predicted, truth, classes)
    else:
        side = classes + 1  # one more for what is no class
        codes = _narrow(truth, classes).mul_(side).add_(_narrow(predicted, classes))
        counts = count_values(codes, side * side).view(side, side)[:-1]
    if 0 <= ignore < classes:
        counts[ignore] = 0
    return counts


def _narrow(labels: Tensor, classes: int) -> Tensor:
    """A copy of the labels, those outside of the classes as `classes`, in the smallest type that holds the codes."""
    small = torch.int16 if (classes + 1) ** 2 < 2**15 else torch.int32
    if labels.dtype in (torch.int32, torch.int64):  # any other loses nothing when it is widened
        labels = labels.clamp(-1, classes)
    narrowed = labels.to(small, copy=True).clamp_(max=classes)
    return narrowed if labels.dtype == torch.uint8 else narrowed.masked_fill_(narrowed < 0, classes)


def _counts_on_host(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """The same counts by OpenCV's joint histogram of bytes, which needs no codes, a cache's fill at a time."""
    import cv2

    side = classes + 1
    counts = np.zeros((side, side), np.float64)
    sides = (_unsigned(truth), _unsigned(predicted))
    for begin in range(0, truth.numel(), _AT_ONCE):
        pair = [np.empty(len(values[begin : begin + _AT_ONCE]), np.uint8) for values in sides]
        for values, narrow in zip(sides, pair):  # one pass: clamped as wide numbers, written as bytes
            np.minimum(values[begin : begin + _AT_ONCE], values.dtype.type(classes), out=narrow, casting="unsafe")
        counts += cv2.calcHist(pair, [0, 1], None, [side, side], [0, side, 0, side])
    return torch.from_numpy(counts[:-1].astype(np.int64))


def _unsigned(labels: Tensor) -> np.ndarray:
    """The labels (N,) as unsigned numbers, of which the negative ones are the largest."""
    values = labels.flatten().numpy()
    if values.dtype in (np.int8, np.bool_):
        values = values.astype(np.int16)
    return values.view(f"u{values.itemsize}")


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
