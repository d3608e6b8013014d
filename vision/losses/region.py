"""Overlap losses of segmentation: Dice, Jaccard, Tversky and what descends from them.

Shapes say the task (see `region_sums`): logits (B, C, ...) with labels (B, ...) are one class a pixel (softmax), with
C = 1 a binary mask (sigmoid), and with labels (B, C, ...) a mask for each class. 2-D, 3-D and any other number of
dimensions. Pixels labelled `ignore` count nowhere.

A class that no pixel of the labels has is left out of the mean: it has no score, and counting it as 0 or as 1 would
hide or invent errors. Where that leaves nothing the loss is 0, with a zero gradient.
"""

from __future__ import annotations

from typing import TypedDict, Unpack

import torch
from torch import Tensor

from vision.losses.reduction import check_reduction, mean_over_present
from vision.losses.region_sums import RegionSums, region_sums

__all__ = [
    "RegionArguments",
    "dice_loss",
    "focal_tversky_loss",
    "generalised_dice_loss",
    "jaccard_loss",
    "log_cosh_dice_loss",
    "tversky_loss",
]


class RegionArguments(TypedDict, total=False):
    """What every overlap loss takes by name, beside logits and labels."""

    ignore: int | None
    """Label of pixels that count nowhere; 255 unless given"""
    class_weight: Tensor | None
    """(C,), by which the mean over classes is weighted; 0 leaves a class out"""
    pixel_weight: Tensor | None
    """(B, ...), each pixel's share"""
    per_image: bool
    """A score for each image and class, rather than one a class over the batch"""
    smooth: float
    """Added to numerator and denominator; 0 unless given"""
    reduction: str
    """"mean" or "sum" over the classes (and images), or "none": (C,), or (B, C) per image, 0 for absent classes"""


_DEFAULTS = RegionArguments(
    ignore=255, class_weight=None, pixel_weight=None, per_image=False, smooth=0.0, reduction="mean"
)


class _Overlap:
    """The sums behind one loss, and the way from its ratio to its value; checks the shared arguments once."""

    def __init__(self, name: str, logits: Tensor, labels: Tensor, given: RegionArguments, squared: bool = False):
        unknown = sorted(set(given) - set(_DEFAULTS))
        if unknown:
            raise TypeError(f"{name}: unknown argument {', '.join(unknown)}; it takes {', '.join(_DEFAULTS)}")
        self.arguments = {**_DEFAULTS, **given}
        check_reduction(name, self.arguments["reduction"])
        options = {key: self.arguments[key] for key in ("ignore", "pixel_weight")}
        sums = region_sums(name, logits, labels, squared=squared, **options)
        self.sums = sums if self.arguments["per_image"] else RegionSums(*(part.sum(0) for part in sums))
        self.class_weight = self.arguments["class_weight"]

    def weigh(self, weight: Tensor) -> None:
        """Adds the classes up, each times its `weight`: one ratio for all of them."""
        if self.class_weight is not None:
            weight, self.class_weight = weight * self.class_weight.to(weight), None
        self.sums = RegionSums(*((weight * part).sum(-1) for part in self.sums))

    def wrong(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        """1 - ratio of each class, and 0 for absent classes; gradients stay finite."""
        present, smooth = self.sums.true > 0, self.arguments["smooth"]
        numerator = torch.where(present, numerator + smooth, 1)
        return 1 - numerator / torch.where(present, denominator + smooth, 1)

    def tversky(self, alpha: float, beta: float) -> Tensor:
        """`wrong` of TP / (TP + alpha FP + beta FN)."""
        overlap, predicted, true = self.sums
        return self.wrong(overlap, overlap + alpha * (predicted - overlap) + beta * (true - overlap))

    def reduce(self, loss: Tensor) -> Tensor:
        """`loss` (C,) or (B, C) reduced over the classes that are present."""
        present, reduction = self.sums.true > 0, self.arguments["reduction"]
        return mean_over_present(loss, present, self.class_weight, reduction)


def dice_loss(logits: Tensor, labels: Tensor, *, squared: bool = False, **shared: Unpack[RegionArguments]) -> Tensor:
    """1 - 2 sum(p t) / (sum p + sum t), averaged over the classes present.

    `squared` sums p^2 in the denominator (V-Net, arXiv:1606.04797). Shapes: see the module.
    """
    over = _Overlap("dice_loss", logits, labels, shared, squared)
    return over.reduce(over.wrong(2 * over.sums.overlap, over.sums.predicted + over.sums.true))


def generalised_dice_loss(logits: Tensor, labels: Tensor, **shared: Unpack[RegionArguments]) -> Tensor:
    """1 - 2 sum_c w_c sum(p t) / sum_c w_c (sum p + sum t), w_c = 1 / (sum t)^2 (arXiv:1707.03237).

    One number an image (`per_image`) or batch rather than one a class: "none" gives (B,) or a scalar.
    """
    over = _Overlap("generalised_dice_loss", logits, labels, shared)
    present = over.sums.true > 0
    over.weigh(torch.where(present, 1 / torch.where(present, over.sums.true, 1) ** 2, 0))
    return over.reduce(over.wrong(2 * over.sums.overlap, over.sums.predicted + over.sums.true))


def log_cosh_dice_loss(
    logits: Tensor, labels: Tensor, *, squared: bool = False, **shared: Unpack[RegionArguments]
) -> Tensor:
    """log(cosh(dice_loss)) of what `dice_loss` returns: smoother near its minimum (arXiv:2006.14822)."""
    return dice_loss(logits, labels, squared=squared, **shared).cosh().log()


def jaccard_loss(logits: Tensor, labels: Tensor, **shared: Unpack[RegionArguments]) -> Tensor:
    """1 - soft IoU: 1 - sum(p t) / (sum p + sum t - sum(p t)) (Rahman & Wang, ISVC 2016)."""
    over = _Overlap("jaccard_loss", logits, labels, shared)
    return over.reduce(over.tversky(1.0, 1.0))


def tversky_loss(
    logits: Tensor, labels: Tensor, *, alpha: float = 0.3, beta: float = 0.7, **shared: Unpack[RegionArguments]
) -> Tensor:
    """1 - TP / (TP + alpha FP + beta FN) (arXiv:1706.05721). alpha = beta = 0.5 is Dice, 1 and 1 Jaccard."""
    over = _Overlap("tversky_loss", logits, labels, shared)
    return over.reduce(over.tversky(alpha, beta))


def focal_tversky_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    **shared: Unpack[RegionArguments],
) -> Tensor:
    """(1 - Tversky)^(1 / gamma) of each class, averaged over those present (arXiv:1810.07842)."""
    over = _Overlap("focal_tversky_loss", logits, labels, shared)
    # the slope of a root is infinite at 0: below 1e-6 the loss is flat
    return over.reduce(over.tversky(alpha, beta).clamp(min=1e-6) ** (1 / gamma))
