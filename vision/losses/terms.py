"""The terms of a segmentation loss, read from a recipe: names, weights over the epochs, options and their ranges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vision.losses.mining import class_weights
from vision.losses.ranges import (
    AT_LEAST_0,
    COUNT,
    EPOCHS,
    POSITIVE,
    SHARE,
    SHARE_OR_NONE,
    SWITCH,
    Numbers,
    Switch,
    check_settings,
)

__all__ = ["BORDER", "OPTIONS", "Term", "read_class_weight", "read_terms"]

_SHORT = {"ce": "cross_entropy", "bce": "cross_entropy", "iou": "jaccard"}
_SCHEDULE = {"weight": AT_LEAST_0, "start": AT_LEAST_0, "from_epoch": EPOCHS, "ramp": EPOCHS}
_OVERLAP = {"smooth": AT_LEAST_0, "per_image": SWITCH}
_TVERSKY = {**_OVERLAP, "alpha": AT_LEAST_0, "beta": AT_LEAST_0}
# loss -> its options and what they may be; every loss takes `class_weight` besides
OPTIONS: dict[str, dict[str, Numbers | Switch]] = {
    "cross_entropy": {"label_smoothing": Numbers("a number from 0 to below 1", high=1, below=True)},
    "focal": {"gamma": AT_LEAST_0, "alpha": SHARE_OR_NONE},
    "ohem": {"threshold": SHARE, "least": SHARE},
    "dice": {**_OVERLAP, "squared": SWITCH},
    "generalised_dice": _OVERLAP,
    "log_cosh_dice": {**_OVERLAP, "squared": SWITCH},
    "jaccard": _OVERLAP,
    "tversky": _TVERSKY,
    "focal_tversky": {**_TVERSKY, "gamma": POSITIVE},
    "lovasz": {},
    "boundary": {},
    "hausdorff": {"power": POSITIVE},
    "hausdorff_erosion": {"power": POSITIVE, "erosions": COUNT},
    "boundary_iou": {"width": COUNT},
}
BORDER = {"w0": AT_LEAST_0, "sigma": POSITIVE, "background": EPOCHS}


@dataclass
class Term:
    """One loss of the sum: from `from_epoch` on its weight goes from `start` to `weight` within `ramp` epochs.

    Before `from_epoch` it is `start`; 0 leaves the term out. ValueError for an unknown loss or option, or a value
    outside its range.
    """

    name: str
    weight: float = 1.0
    from_epoch: int = 0
    ramp: int = 0
    start: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in OPTIONS:
            raise ValueError(f"loss {self.name!r} is not known; choose from: {', '.join(OPTIONS)}")
        given = {key: getattr(self, key) for key in _SCHEDULE} | self.options
        check_settings(f"loss.{self.name}", given, {**OPTIONS[self.name], **_SCHEDULE}, ("class_weight",))

    def weight_at(self, epoch: int) -> float:
        """The weight in `epoch`, counted from 0."""
        if epoch < self.from_epoch:
            return self.start
        share = 1.0 if self.ramp == 0 else min((epoch - self.from_epoch) / self.ramp, 1.0)
        return self.start + (self.weight - self.start) * share


def read_terms(spec: str | Mapping[str, Any]) -> tuple[list[Term], dict[str, Any] | None]:
    """The terms of `spec` (see `compose`), and the options of its `border_weight`, None where it has none.

    ValueError when a loss is unknown or named twice, a value is out of its range, or an epoch would have no loss.
    """
    if isinstance(spec, str):
        entries = [(name.strip(), 1.0) for name in spec.split("+")]
    elif isinstance(spec, Mapping):
        entries = list(spec.items())
    else:
        raise ValueError(f"loss = {spec!r}; expected names as 'ce+dice', or a mapping from names to weights")
    border = dict(entries).get("border_weight")
    if border is not None:
        if not isinstance(border, Mapping):
            raise ValueError(f"loss.border_weight = {border!r}; expected a mapping with any of {', '.join(BORDER)}")
        check_settings("loss.border_weight", border, BORDER)
    terms = [_term(_SHORT.get(name, name), value) for name, value in entries if name != "border_weight"]
    _check_names([term.name for term in terms], spec)
    _check_epochs(terms)
    return terms, None if border is None else dict(border)


def _term(name: str, value: Any) -> Term:
    if isinstance(value, Mapping):
        own = {key: value[key] for key in _SCHEDULE if key in value}
        return Term(name, **own, options={key: value[key] for key in value if key not in own})
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"loss.{name} = {value!r}; expected a weight, or a mapping with a weight and options")
    return Term(name, value)


def _check_names(names: Sequence[str], spec: Any) -> None:
    if not names:
        raise ValueError(f"loss = {spec!r}; expected names as 'ce+dice', or a mapping from names to weights")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        short = [f"{key} is short for {name}" for key, name in _SHORT.items() if name in twice]
        reason = f" ({', '.join(short)})" if short else ""
        raise ValueError(f"loss: {', '.join(twice)} named twice{reason}; name a loss once, with the weight of both")


def _check_epochs(terms: Sequence[Term]) -> None:
    """Refuses a sum that is 0 in some epoch: nothing would be learnt in it.

    The weights change linearly between these epochs and are 0 or more, so a sum of 0 shows in one of them first.
    """
    turns = {0}
    for term in terms:
        turns |= {max(term.from_epoch - 1, 0), term.from_epoch, term.from_epoch + term.ramp}
    for epoch in sorted(turns):
        if not any(term.weight_at(epoch) for term in terms):
            raise ValueError(
                f"loss: every weight is 0 in epoch {epoch}, which would learn nothing. A term weighs its `start:` "
                "(0 unless given) up to from_epoch and at the foot of its ramp: give one a start above 0, or add a "
                "loss that counts in that epoch"
            )


def read_class_weight(weight: Sequence[float] | Tensor | str | None, classes: int) -> Tensor | str | None:
    """Class weights as given: a known name, or (C,) float32. ValueError for anything else."""
    if weight is None:
        return None
    if isinstance(weight, str):
        class_weights(torch.ones(1), weight)  # refuses an unknown name now rather than after the data is read
        return weight
    try:
        weight = torch.as_tensor(weight, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"class_weight = {weight!r}; expected a number for each class, or a name") from error
    if weight.shape != (classes,):
        raise ValueError(
            f"class_weight has shape {tuple(weight.shape)}; expected one number for each of {classes} classes"
        )
    if not (weight.isfinite().all() and (weight >= 0).all() and weight.any()):
        raise ValueError(f"class_weight = {weight.tolist()}; expected finite numbers of 0 or more, not all of them 0")
    return weight
