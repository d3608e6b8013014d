"""Average precision of pixels by class, from the scores of a segmentation."""

from __future__ import annotations

import torch
from torch import Tensor

from vision.metrics.confusion import is_ignored
from vision.ops.histogram import count_values
from vision.ops.reduce import sum_over_processes

__all__ = ["PixelPrecision", "binned_average_precision"]


def binned_average_precision(positive: Tensor, total: Tensor) -> Tensor:
    """Average precision (C,) float64 from how many pixels have each score, positive ones and all: (C, bins), by rising
    score. The sum over thresholds of the gain in recall times precision, as scikit-learn defines it; NaN without
    positive ones."""
    positive, total = positive.double().flip(-1), total.double().flip(-1)
    hits, taken = positive.cumsum(-1), total.cumsum(-1)
    gain = positive / hits[:, -1:]
    return torch.where(hits[:, -1] > 0, (gain * (hits / taken.clamp(min=1))).sum(-1), torch.nan)


class PixelPrecision:
    """Accumulates histograms of scores: 2 x C x bins numbers, however many pixels there are.

    Exact for scores rounded down to multiples of 1 / bins: pixels whose scores round to the same step count as tied.
    Sorting every score of a data set would need all of them at once (a 512 x 1024 image of 19 classes has 10 million).
    """

    def __init__(self, classes: int, bins: int = 4096, ignore: int = 255):
        if not 2 <= bins <= 1 << 20:
            raise ValueError(f"PixelPrecision: {bins} bins; expected 2 to {1 << 20}")
        self.classes, self.bins, self.ignore = classes, bins, ignore
        self.reset()

    def reset(self) -> None:
        self.counts = torch.zeros((2, self.classes, self.bins), dtype=torch.int64)  # positive, all

    def to(self, device: torch.device | str) -> PixelPrecision:
        self.counts = self.counts.to(device)
        return self

    def update(self, scores: Tensor | None, truth: Tensor) -> None:
        """scores (B, C, H, W) in [0, 1] (cut off there), truth (B, H, W) labels, or (B, C, H, W) of 0, 1 and `ignore`
        where every class is a question of its own. No wait for the device."""
        if scores is None:
            raise ValueError("PixelPrecision.update: no scores; average precision needs them, (B, C, H, W)")
        several = truth.ndim == 4
        expected = (len(truth), self.classes, *truth.shape[-2:])
        if scores.shape != expected or (several and truth.shape != expected):
            raise ValueError(f"PixelPrecision.update: scores {tuple(scores.shape)}, truth {tuple(truth.shape)}")
        self.counts = self.counts.to(scores.device)
        for label in range(self.classes):
            one = truth[:, label] if several else truth
            step = scores[:, label].float().mul(self.bins).nan_to_num(0).clamp_(0, self.bins - 1).int()
            # steps of negative, then of positive pixels, and a last place for what is not counted
            step += self.bins * (one == (1 if several else label))
            step = step.masked_fill_(is_ignored(one, self.ignore), 2 * self.bins)
            negative, positive = count_values(step, 2 * self.bins + 1)[:-1].view(2, self.bins)
            self.counts[0, label] += positive
            self.counts[1, label] += negative + positive

    def merge(self, other: PixelPrecision) -> None:
        self.counts = self.counts + other.counts.to(self.counts.device)

    def all_reduce(self) -> None:
        self.counts = sum_over_processes(self.counts)

    def compute(self) -> Tensor:
        """Average precision by class (C,) float64, NaN for a class without true pixels."""
        return binned_average_precision(*self.counts.cpu())
