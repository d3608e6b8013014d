"""A weighted sum of segmentation losses by name, whose weights may change over the epochs.

    loss: dice                                                     one loss
    loss: ce+dice                                                  several, each of weight 1
    loss: {cross_entropy: 1.0, dice: 0.5}                          with weights
    loss: {dice: {weight: 0.01, start: 1.0, ramp: 99},             from region to boundary over 99 epochs
           boundary: {weight: 1.0, start: 0.01, ramp: 99}}
    loss: {cross_entropy: {label_smoothing: 0.1, class_weight: balanced}, lovasz: {weight: 0.5, from_epoch: 20}}
    loss: {cross_entropy: 1.0, border_weight: {w0: 10, sigma: 5}}  U-Net's pixel weights, for losses that take them

Logits and labels may be one class a pixel, binary or multi-label masks: shapes say which (see `region_sums`).
"""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vision.losses.mining import class_weights
from vision.losses.terms import Term, read_class_weight, read_terms

__all__ = ["LOSSES", "SegmentationLoss"]

# name -> "module:function"; a function takes (logits, labels, *, ignore, class_weight, pixel_weight?) and the options
# that `terms.OPTIONS` has for it
LOSSES: dict[str, str] = {
    "cross_entropy": "vision.losses.pixels:pixel_cross_entropy",
    "focal": "vision.losses.pixels:pixel_focal",
    "ohem": "vision.losses.pixels:pixel_ohem",
    "dice": "vision.losses.region:dice_loss",
    "generalised_dice": "vision.losses.region:generalised_dice_loss",
    "log_cosh_dice": "vision.losses.region:log_cosh_dice_loss",
    "jaccard": "vision.losses.region:jaccard_loss",
    "tversky": "vision.losses.region:tversky_loss",
    "focal_tversky": "vision.losses.region:focal_tversky_loss",
    "lovasz": "vision.losses.lovasz:lovasz_loss",
    "boundary": "vision.losses.boundary:boundary_loss",
    "hausdorff": "vision.losses.boundary:hausdorff_distance_loss",
    "hausdorff_erosion": "vision.losses.boundary:hausdorff_erosion_loss",
    "boundary_iou": "vision.losses.boundary:boundary_iou_loss",
}


class SegmentationLoss:
    """(logits, labels, epoch) -> the weighted losses by name, each a 0-dim float32 tensor.

    `spec` as in the module's examples. `class_weight` (C,), numbers or "balanced", "effective_number" or
    "median_frequency", serves every loss unless its own `class_weight` is given; names need
    `use_counts`. ValueError for a loss or option that is unknown or out of its range, or named twice, for a
    `border_weight` that no loss of the sum takes, and where some epoch would have no loss of a weight above 0.
    """

    def __init__(
        self,
        spec: str | Mapping[str, Any],
        classes: int,
        *,
        ignore: int = 255,
        class_weight: Sequence[float] | Tensor | str | None = None,
    ):
        self.classes, self.ignore = classes, ignore
        self.terms, self.border = read_terms(spec)
        self._functions = [_function(term) for term in self.terms]
        self._weights = [
            read_class_weight(term.options.pop("class_weight", class_weight), classes) for term in self.terms
        ]
        pairs = zip(self.terms, self._functions)
        self._weighs_pixels = {term.name for term, function in pairs if "pixel_weight" in _parameters(function)}
        if self.border is not None and not self._weighs_pixels:
            names = ", ".join(term.name for term in self.terms)
            able = ", ".join(name for name in LOSSES if "pixel_weight" in _parameters(_function(Term(name))))
            raise ValueError(f"loss.border_weight: no loss of the sum ({names}) takes pixel weights; those are: {able}")

    @property
    def needs_counts(self) -> bool:
        """Whether class weights are to be derived from the data set's counts (see `use_counts`)."""
        return any(isinstance(weight, str) for weight in self._weights)

    def use_counts(self, counts: Sequence[float] | Tensor) -> None:
        """Derive the class weights given by name from how many pixels of each class there are, (C,)."""
        counts = torch.as_tensor(counts)
        if len(counts) != self.classes:
            raise ValueError(f"SegmentationLoss.use_counts: {len(counts)} counts for {self.classes} classes")
        self._weights = [class_weights(counts, w) if isinstance(w, str) else w for w in self._weights]

    def use_class_weight(self, weight: Sequence[float] | Tensor) -> None:
        """Weigh the classes by `weight` (C,) in every loss."""
        self._weights = [read_class_weight(weight, self.classes)] * len(self.terms)

    def __call__(
        self, logits: Tensor, labels: Tensor, epoch: int = 0, *, pixel_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Logits (B, C, ...), labels (B, ...) or (B, C, ...); `pixel_weight` (B, ...) for the losses that take it."""
        if self.needs_counts:
            raise ValueError(
                "SegmentationLoss: class weights by name need the data set's counts; call use_counts first"
            )
        if self.border is not None:
            border = self._border_weight(labels)
            pixel_weight = border if pixel_weight is None else border * pixel_weight
        losses = {}
        for term, function, class_weight in zip(self.terms, self._functions, self._weights):
            weight = term.weight_at(epoch)
            if weight == 0:
                continue
            options = dict(term.options)
            if class_weight is not None:
                if len(class_weight) != logits.shape[1]:
                    raise ValueError(
                        f"SegmentationLoss: {len(class_weight)} class weights for {logits.shape[1]} logits a pixel; "
                        "a binary mask has one: weigh its positives by the focal loss's alpha, or by Tversky's beta"
                    )
                options["class_weight"] = class_weight
            if pixel_weight is not None and term.name in self._weighs_pixels:
                options["pixel_weight"] = pixel_weight
            losses[term.name] = weight * function(logits, labels, ignore=self.ignore, **options)
        return losses

    def _border_weight(self, labels: Tensor) -> Tensor:
        from vision.losses.boundary import border_weight_map
        from vision.ops.components import connected_components

        options = dict(self.border)
        background = options.pop("background", 0)
        if labels.ndim != 3:
            raise ValueError(f"border_weight: labels {tuple(labels.shape)}; it is for one class a pixel, (B, H, W)")
        cells = connected_components((labels != background) & (labels != self.ignore))
        return border_weight_map(cells, **options)


def _parameters(function: Callable[..., Tensor]) -> set[str]:
    """The names of what `function` takes, those of typed keyword arguments (region.py) among them."""
    names = set(inspect.signature(function).parameters)
    if "shared" in names:
        (shared,) = typing.get_args(typing.get_type_hints(function)["shared"])
        names = names - {"shared"} | set(shared.__annotations__)
    return names


def _function(term: Term) -> Callable[..., Tensor]:
    module, name = LOSSES[term.name].split(":")
    return getattr(importlib.import_module(module), name)
