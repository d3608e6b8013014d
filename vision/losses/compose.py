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
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vision.losses.classification import binary_cross_entropy, cross_entropy, sigmoid_focal_loss, softmax_focal_loss
from vision.losses.mining import class_weights, ohem_cross_entropy
from vision.losses.region_sums import check_labels

__all__ = ["LOSSES", "SegmentationLoss", "Term"]

# name -> "module:function"; a function takes (logits, labels, *, ignore, class_weight?, pixel_weight?, its options)
LOSSES: dict[str, str] = {
    "cross_entropy": "vision.losses.compose:pixel_cross_entropy",
    "focal": "vision.losses.compose:pixel_focal",
    "ohem": "vision.losses.compose:pixel_ohem",
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
_SHORT = {"ce": "cross_entropy", "bce": "cross_entropy", "iou": "jaccard"}
_NOT_OPTIONS = {"logits", "labels", "ignore", "pixel_weight", "reduction"}


@dataclass
class Term:
    """One loss of the sum: from `from_epoch` on its weight goes from `start` to `weight` within `ramp` epochs.

    Before `from_epoch` it is `start`; 0 leaves the term out.
    """

    name: str
    weight: float = 1.0
    from_epoch: int = 0
    ramp: int = 0
    start: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.weight < 0 or self.start < 0 or self.ramp < 0:
            raise ValueError(f"loss.{self.name}: weight, start and ramp must be 0 or more")

    def weight_at(self, epoch: int) -> float:
        """The weight in `epoch`, counted from 0."""
        if epoch < self.from_epoch:
            return self.start
        share = 1.0 if self.ramp == 0 else min((epoch - self.from_epoch) / self.ramp, 1.0)
        return self.start + (self.weight - self.start) * share


class SegmentationLoss:
    """(logits, labels, epoch) -> the weighted losses by name, each a 0-dim float32 tensor.

    `spec` as in the module's examples. `class_weight` (C,), numbers or "balanced", "effective_number" or
    "median_frequency", serves every loss that takes one unless its own `class_weight` is given; names need
    `use_counts`. ValueError for an unknown loss or option, listing those that are known.
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
        entries = dict(_entries(spec))
        self.border = _border(entries.pop("border_weight", None))
        self.terms = [_term(name, value) for name, value in entries.items()]
        self._functions = [_function(term) for term in self.terms]
        self._weights = [
            _given_weight(term.options.pop("class_weight", class_weight), function, classes)
            for term, function in zip(self.terms, self._functions)
        ]
        pairs = zip(self.terms, self._functions)
        self._weighs_pixels = {term.name for term, function in pairs if "pixel_weight" in _parameters(function)}

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
        """Weigh the classes by `weight` (C,) in every loss that takes class weights."""
        self._weights = [_given_weight(weight, function, self.classes) for function in self._functions]

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


def pixel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int = 255,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy: softmax over classes, or a sigmoid for each mask (class weights: of the masks)."""
    if check_labels("cross_entropy", logits, labels):
        return cross_entropy(
            logits, labels, weight=class_weight, ignore=ignore, label_smoothing=label_smoothing,
            pixel_weight=pixel_weight,
        )  # fmt: skip
    targets, weight = _answers(logits, labels, ignore, class_weight, pixel_weight)
    total = weight.sum()
    return binary_cross_entropy(
        logits, targets, weight=weight, label_smoothing=label_smoothing, normaliser=torch.where(total > 0, total, 1)
    )


def pixel_focal(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int = 255,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float | None = None,
) -> Tensor:
    """Mean focal loss: softmax over classes, or a sigmoid for each mask (`alpha` weighs its positives)."""
    if check_labels("focal", logits, labels):
        return softmax_focal_loss(
            logits, labels, weight=class_weight, gamma=gamma, ignore=ignore, pixel_weight=pixel_weight
        )
    targets, weight = _answers(logits, labels, ignore, class_weight, pixel_weight)
    total = weight.sum()
    normaliser = torch.where(total > 0, total, 1)
    return sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma, weight=weight, normaliser=normaliser)


def pixel_ohem(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int = 255,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    threshold: float = 0.7,
    least: float = 0.0625,
) -> Tensor:
    """`ohem_cross_entropy`, for one class a pixel."""
    if not check_labels("ohem", logits, labels):
        raise ValueError("ohem: logits of masks; it needs one class a pixel out of two or more. Use focal instead")
    return ohem_cross_entropy(
        logits, labels, threshold=threshold, least=least, weight=class_weight, ignore=ignore, pixel_weight=pixel_weight
    )


def _answers(
    logits: Tensor, labels: Tensor, ignore: int, class_weight: Tensor | None, pixel_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Targets and weights of the logits' shape for masks."""
    labels = labels.reshape(logits.shape)
    keep = labels != ignore
    weight = keep.float()
    if class_weight is not None:
        weight = weight * class_weight.to(weight).reshape(1, -1, *[1] * (logits.ndim - 2))
    if pixel_weight is not None:
        weight = weight * pixel_weight.unsqueeze(1)
    return torch.where(keep, labels, 0), weight


def _entries(spec: str | Mapping[str, Any]) -> list[tuple[str, Any]]:
    if isinstance(spec, str):
        spec = {name.strip(): 1.0 for name in spec.split("+")}
    if not isinstance(spec, Mapping) or not spec:
        raise ValueError(f"loss = {spec!r}; expected names as 'ce+dice', or a mapping from names to weights")
    return [(_SHORT.get(name, name), value) for name, value in spec.items()]


def _border(options: Any) -> dict[str, Any] | None:
    if options is None:
        return None
    unknown = set(options) - {"w0", "sigma", "background"} if isinstance(options, Mapping) else {options}
    if unknown:
        raise ValueError(f"loss.border_weight: {unknown}; expected a mapping with any of w0, sigma, background")
    return dict(options)


def _term(name: str, value: Any) -> Term:
    if name not in LOSSES:
        raise ValueError(f"loss {name!r} is not known; choose from: {', '.join(LOSSES)}")
    if isinstance(value, Mapping):
        own = {key: value[key] for key in ("weight", "from_epoch", "ramp", "start") if key in value}
        return Term(name, **own, options={key: value[key] for key in value if key not in own})
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"loss.{name} = {value!r}; expected a weight, or a mapping with a weight and options")
    return Term(name, float(value))


def _parameters(function: Callable[..., Tensor]) -> set[str]:
    """The names of what `function` takes, those of typed keyword arguments (region.py) among them."""
    names = set(inspect.signature(function).parameters)
    if "shared" in names:
        (shared,) = typing.get_args(typing.get_type_hints(function)["shared"])
        names = names - {"shared"} | set(shared.__annotations__)
    return names


def _function(term: Term) -> Callable[..., Tensor]:
    module, name = LOSSES[term.name].split(":")
    function = getattr(importlib.import_module(module), name)
    known = _parameters(function) - _NOT_OPTIONS
    unknown = sorted(set(term.options) - known)
    if unknown:
        known |= {"weight", "from_epoch", "ramp", "start"}
        raise ValueError(f"loss.{term.name}: unknown {', '.join(unknown)}; known are: {', '.join(sorted(known))}")
    return function


def _given_weight(
    weight: Sequence[float] | Tensor | str | None, function: Callable[..., Tensor], classes: int
) -> Tensor | str | None:
    if weight is None or "class_weight" not in _parameters(function):
        return None
    if isinstance(weight, str):
        class_weights(torch.ones(1), weight)  # refuses an unknown name now rather than after the data is read
        return weight
    weight = torch.as_tensor(weight, dtype=torch.float32)
    if weight.shape != (classes,):
        raise ValueError(
            f"class_weight has shape {tuple(weight.shape)}; expected one number for each of {classes} classes"
        )
    return weight
