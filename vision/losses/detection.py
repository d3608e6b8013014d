"""The losses that detectors choose by name: one on the boxes of positives, one on the class scores of all places.

model_options: {box_loss: eiou}
model_options: {box_loss: {name: ciou, alpha: 3, weight: 2}, class_loss: {name: varifocal, gamma: 1.5}}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from vision.losses.boxes import balanced_l1_loss, box_iou_loss, smooth_l1_loss
from vision.losses.classification import (
    binary_cross_entropy,
    quality_focal_loss,
    sigmoid_focal_loss,
    varifocal_loss,
)
from vision.losses.ranges import AT_LEAST_0, POSITIVE, SHARE_OR_NONE, Numbers, Switch, check_settings
from vision.ops.boxes import IOU_KINDS

__all__ = ["BOX_LOSSES", "CLASS_LOSSES", "OFFSET_LOSSES", "DetectionLoss", "read_box_loss", "read_class_loss"]

# balanced_l1 takes exp(gamma / alpha), which has to stay a float32
_NOT_SMALL = Numbers("a number of 0.1 or more", low=0.1)
_NOT_LARGE = Numbers("a number above 0, up to 8", above=True, high=8)
Known = dict[str, tuple[Callable[..., Tensor], dict[str, Numbers | Switch]]]
# name -> the function, and its options with what they may be; on decoded boxes, xyxy in pixels
BOX_LOSSES: Known = {kind: (partial(box_iou_loss, kind=kind), {"alpha": POSITIVE}) for kind in IOU_KINDS}
# on offsets from anchors
OFFSET_LOSSES: Known = {
    "l1": (partial(smooth_l1_loss, beta=0.0), {}),
    "smooth_l1": (smooth_l1_loss, {"beta": AT_LEAST_0}),
    "balanced_l1": (balanced_l1_loss, {"alpha": _NOT_SMALL, "gamma": _NOT_LARGE, "beta": POSITIVE}),
}
# on the logits of each class
CLASS_LOSSES: Known = {
    "bce": (binary_cross_entropy, {}),
    "focal": (sigmoid_focal_loss, {"alpha": SHARE_OR_NONE, "gamma": AT_LEAST_0}),
    "quality_focal": (quality_focal_loss, {"beta": AT_LEAST_0}),
    "varifocal": (varifocal_loss, {"alpha": AT_LEAST_0, "gamma": AT_LEAST_0}),
}


@dataclass(frozen=True)
class DetectionLoss:
    """(prediction, target, weight) -> the weighted sum, a 0-dim float32 tensor, of the loss `name` with its options,
    times `factor`."""

    name: str
    function: Callable[..., Tensor]
    factor: float = 1.0

    @property
    def on_offsets(self) -> bool:
        """Whether it compares offsets from anchors rather than boxes."""
        return self.name in OFFSET_LOSSES

    @property
    def learns_overlap(self) -> bool:
        """Whether a positive's score is to be the IoU of its box with its object, as GFL and VarifocalNet have it."""
        return self.name in ("quality_focal", "varifocal")

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return self.factor * self.function(prediction, target, weight=weight, reduction="sum")


def read_box_loss(spec: str | Mapping[str, Any], *, offsets: bool = False, key: str = "box_loss") -> DetectionLoss:
    """The box loss that `spec` names, those on offsets among them for detectors with anchors (`offsets`).

    `spec`: a name, or a mapping of `name`, its options and `weight`, a factor. ValueError, for the option `key`, lists
    the names, or the options of a loss.
    """
    return _read(key, spec, {**OFFSET_LOSSES, **BOX_LOSSES} if offsets else BOX_LOSSES)


def read_class_loss(spec: str | Mapping[str, Any]) -> DetectionLoss:
    """The class loss that `spec` names, as `read_box_loss`."""
    return _read("class_loss", spec, CLASS_LOSSES)


def _read(key: str, spec: str | Mapping[str, Any], known: Known) -> DetectionLoss:
    given = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    name = given.pop("name", None)
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"{key} = {spec!r}; expected one of {', '.join(known)}, or a mapping with such a name and its options"
        )
    function, options = known[name]
    check_settings(f"{key} {name}", given, {**options, "weight": AT_LEAST_0})
    factor = given.pop("weight", 1.0)
    return DetectionLoss(name, partial(function, **given), factor)
