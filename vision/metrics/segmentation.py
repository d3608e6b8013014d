"""Scores of semantic segmentation: accuracy, IoU, frequency-weighted IoU, Dice (F1), precision, recall, and the average
precision of scores; of one class a pixel, or of several at once; over a data set, or image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vision.metrics.confusion import confusion_matrix
from vision.metrics.pixel_precision import PixelPrecision
from vision.metrics.sums import check_mergeable, gather_states
from vision.metrics.table import null_undefined, result_table
from vision.ops.reduce import sum_over_processes
from vision.structures import ClassMap

__all__ = ["SegmentationResult", "SegmentationScore", "segmentation_figures"]


def segmentation_figures(
    hit: Tensor, true: Tensor, predicted: Tensor, pixels: Tensor | None = None
) -> dict[str, Tensor]:
    """Figures, float64, NaN where undefined, of the pixels of each class (..., C) that are found, true, predicted.

    A class in neither prediction nor truth has no IoU, Dice, ... and is left out of the means; a class in one of them
    only scores 0. Accuracy of a class (its recall) needs the class in the truth, precision needs it in the prediction.
    pixels (..., C): how many were judged, where each class is a question of its own (several labels a pixel); pixel
    accuracy is then the share of right answers, else that of pixels with the right class.
    """
    hit, true, predicted = hit.double(), true.double(), predicted.double()
    iou, dice = hit / (true + predicted - hit), 2 * hit / (true + predicted)
    share = (true / true.sum(-1, keepdim=True)).nan_to_num()
    right, asked = hit.sum(-1), true.sum(-1)
    if pixels is not None:
        asked = pixels.double().sum(-1)
        right = asked - (true + predicted - 2 * hit).sum(-1)
    return {
        "pixel_accuracy": right / asked,
        "mean_accuracy": (hit / true).nanmean(-1),
        "mIoU": iou.nanmean(-1),
        "FWIoU": torch.where(true.sum(-1) > 0, (share * iou.nan_to_num()).sum(-1), torch.nan),
        "mean_dice": dice.nanmean(-1),
        "IoU": iou,
        "dice": dice,
        "accuracy": hit / true,
        "precision": hit / predicted,
        "recall": hit / true,
    }


@dataclass(frozen=True)
class SegmentationResult:
    """Figures by name (0-dim, or (C,) by class; NaN = undefined), and the counts behind them.

    matrix (C, C + 1) int64, pixels by true and predicted class, the last column for none; with several labels a pixel
    (C, 2, 2), by truth and prediction of each class. images: how many the means are over; 0 = over the data set;
    images_left_out: those of them without a pixel that counts, in none of the means.
    score_bins: steps of the scores that average precision tells apart; 0 = none was asked for.
    """

    classes: ClassMap
    matrix: np.ndarray
    figures: dict[str, np.ndarray]
    images: int = 0
    undefined: np.ndarray | None = None  # (C,), with images: those without the class
    score_bins: int = 0
    images_left_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The names of `vision evaluate`; undefined figures are None."""
        overall: dict[str, Any] = {name: float(value) for name, value in self.figures.items() if np.ndim(value) == 0}
        overall["averaged_over"] = f"mean over {self.images} images" if self.images else "over the data set"
        overall["classes_without_IoU"] = int(np.isnan(self.figures["IoU"]).sum())
        if self.images:
            overall["images_left_out"] = self.images_left_out
        if self.score_bins:
            overall["score_bins"] = self.score_bins
        rows = {
            label: {name: float(value[i]) for name, value in self.figures.items() if np.ndim(value) == 1}
            for i, label in enumerate(self.classes.names)
        }
        if self.undefined is not None:
            for row, number in zip(rows.values(), self.undefined):
                row["images_without_IoU"] = int(number)
        return null_undefined({**overall, "per_class": rows})

    def table(self, style: str = "console") -> str:
        """Overall and per-class table: "console", "markdown", "csv" or "json"."""
        return result_table(self.to_dict(), style)


class SegmentationScore:
    """Accumulates pixel counts over a data set; a few KB of state (an image, with `per_image`), on the device of its
    inputs.

    classes: names, count or ClassMap; ignore: the truth label that is not counted.
    multi_label: each class is a question of its own (any number of classes a pixel; with one class: binary masks).
    per_image: figures of each image, averaged over the images where they are defined, rather than of all pixels.
    score_bins: also average precision by class, from scores rounded down to so many steps (see `PixelPrecision`).
    """

    def __init__(
        self,
        classes: ClassMap | Sequence[str] | int,
        ignore: int = 255,
        *,
        multi_label: bool = False,
        per_image: bool = False,
        score_bins: int = 0,
    ):
        if per_image and score_bins:
            raise ValueError("SegmentationScore: average precision is of the whole data set; leave per_image out")
        if multi_label and ignore in (0, 1):
            raise ValueError(f"SegmentationScore: ignore {ignore} is an answer of multi_label; expected another number")
        self.classes = ClassMap.of(classes)
        self.ignore, self.multi_label, self.per_image = ignore, multi_label, per_image
        self.score_bins = score_bins
        self.precision = PixelPrecision(len(self.classes), score_bins, ignore) if score_bins else None
        self.reset()

    def reset(self) -> None:
        number = len(self.classes)
        shape = (number, 2, 2) if self.multi_label else (number, number + 1)
        self.matrix = torch.zeros(shape, dtype=torch.int64)
        self.images: list[Tensor] = []  # (B, 3 or 4, C): rows of `_summary`, with `per_image`
        if self.precision:
            self.precision.reset()

    def to(self, device: torch.device | str) -> SegmentationScore:
        self.matrix = self.matrix.to(device)
        self.images = [one.to(device) for one in self.images]
        if self.precision:
            self.precision.to(device)
        return self

    def update(self, predicted: Tensor, truth: Tensor, scores: Tensor | None = None) -> None:
        """Count predicted and truth (B, H, W), integer labels; with multi_label (B, C, H, W), or (B, H, W) for one
        class, of 0, 1 or (truth) `ignore`. scores (B, C, H, W) in [0, 1], with score_bins. No wait for the device."""
        if predicted.shape != truth.shape:
            raise ValueError(f"SegmentationScore: predicted {tuple(predicted.shape)} but truth {tuple(truth.shape)}")
        if self.precision:
            binary = self.multi_label and truth.ndim == 3  # of one class, given without its axis
            self.precision.update(scores, truth[:, None] if binary else truth)
        elif scores is not None:
            raise ValueError("SegmentationScore: scores without score_bins; give the number of steps, as 4096")
        if self.per_image:
            matrices = [self._count(one, other) for one, other in zip(predicted[:, None], truth[:, None])]
            if matrices:
                self.images.append(_summary(torch.stack(matrices)))
            counted = sum(matrices, torch.zeros_like(self.matrix, device=truth.device))
        else:
            counted = self._count(predicted, truth)
        if truth.device.type == "cpu":  # a GPU would have to be waited for
            _check_all_counted(counted, truth, self.ignore)
        self.matrix = self.matrix.to(counted.device) + counted

    def _count(self, predicted: Tensor, truth: Tensor) -> Tensor:
        number = len(self.classes)
        if not self.multi_label:
            return confusion_matrix(predicted, truth, number, self.ignore)
        if number == 1 and truth.ndim == 3:
            predicted, truth = predicted[:, None], truth[:, None]
        if truth.ndim != 4 or truth.shape[1] != number:
            raise ValueError(f"SegmentationScore: truth {tuple(truth.shape)}; expected (B, {number}, H, W)")
        pairs = zip(predicted.unbind(1), truth.unbind(1))
        counts = torch.stack([confusion_matrix(one, other, 2, self.ignore) for one, other in pairs])
        counts[..., 0] += counts[..., 2]  # what is neither yes nor no does not claim the class
        return counts[..., :2]

    def merge(self, other: SegmentationScore) -> None:
        """Add what another score of the same settings has counted; ValueError for other settings."""
        check_mergeable(self, other, "ignore", "multi_label", "per_image", "score_bins")
        self.matrix = self.matrix + other.matrix.to(self.matrix.device)
        self.images += other.images
        if self.precision:
            self.precision.merge(other.precision)

    def all_reduce(self) -> None:
        """Sum over the processes of torch.distributed; nothing to do without them."""
        self.matrix = sum_over_processes(self.matrix)
        if self.per_image:
            self.images = [one for part in gather_states([one.cpu() for one in self.images]) for one in part]
        if self.precision:
            self.precision.all_reduce()

    def compute(self) -> SegmentationResult:
        matrix = self.matrix.cpu()
        if not self.per_image:
            figures = segmentation_figures(*_summary(matrix[None])[0])
            if self.precision:
                values = self.precision.compute()
                figures |= {"mean_average_precision": values.nanmean(), "average_precision": values}
            return SegmentationResult(self.classes, matrix.numpy(), _arrays(figures), score_bins=self.score_bins)
        summary = torch.cat([one.cpu() for one in self.images] or [_summary(matrix[None])[:0]])
        each = segmentation_figures(*summary.unbind(1))
        undefined, left_out = each["IoU"].isnan().sum(0).numpy(), int(each["pixel_accuracy"].isnan().sum())
        figures = {name: value.nanmean(0) for name, value in each.items()}
        arrays = (matrix.numpy(), _arrays(figures))
        return SegmentationResult(self.classes, *arrays, len(summary), undefined, images_left_out=left_out)


def _check_all_counted(counted: Tensor, truth: Tensor, ignore: int) -> None:
    """ValueError when a truth pixel is neither in the counts nor labelled `ignore`."""
    values = truth.numpy()
    left = values.size - counted.numpy().sum()
    if left and left != np.count_nonzero(values == ignore):
        raise ValueError(
            f"SegmentationScore.update: truth from {values.min()} to {values.max()}; expected labels below "
            f"{len(counted)} (with multi_label 0 or 1), or {ignore} to ignore"
        )


def _summary(matrices: Tensor) -> Tensor:
    """Pixels by class that are found, true and predicted, of matrices (B, C, C + 1) -> (B, 3, C); of several labels
    (B, C, 2, 2) -> (B, 4, C), the fourth row those that were judged."""
    if matrices.ndim == 4:
        true, predicted = matrices[:, :, 1].sum(-1), matrices[..., 1].sum(-1)
        return torch.stack([matrices[:, :, 1, 1], true, predicted, matrices.sum((-2, -1))], 1)
    hit = matrices.diagonal(dim1=-2, dim2=-1)
    return torch.stack([hit, matrices.sum(-1), matrices.sum(-2)[:, :-1]], 1)


def _arrays(figures: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in figures.items()}
