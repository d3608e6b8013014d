"""torchvision's classification state dicts under our backbones' keys; only the classifier is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vision.backbones.base import Backbone

__all__ = ["convert_backbone_state", "load_backbone_state"]

_CLASSIFIERS = ("fc.", "classifier.")
# MobileNetV2 keeps the last convolution of a block and its norm as two entries of `conv`
_V2_BLOCK = re.compile(r"^(features\.\d+)\.conv\.(\d+)\.(.+)$")


def _convert_mobilenet_v2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    converted = {}
    for key, value in state.items():
        match = _V2_BLOCK.match(key)
        if match:
            block, index, rest = match[1], int(match[2]), match[3]
            if not rest[0].isdigit():  # "2.weight" is the projection, "3.weight" its norm (1 and 2 in the first block)
                rest = ("0." if value.ndim == 4 else "1.") + rest
                index -= value.ndim != 4
            key = f"{block}.block.{index}.{rest}"
        converted[key] = value
    return converted


def convert_backbone_state(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's state dict of the classification network `name`, renamed to our keys, without its classifier."""
    kept = {key: value for key, value in state.items() if not key.startswith(_CLASSIFIERS)}
    return _convert_mobilenet_v2(kept) if name == "mobilenet_v2" else kept


def _beyond(backbone: Backbone, key: str) -> bool:
    """Whether `key` belongs to a stage that `backbone` leaves out because no level asks for it."""
    stage = re.match(r"^layer(\d)\.", key)
    if stage:
        return not hasattr(backbone, f"layer{stage[1]}")
    feature = re.match(r"^features\.(\d+)\.", key)
    return feature is not None and int(feature[1]) >= len(getattr(backbone, "features", ()))


def load_backbone_state(backbone: Backbone, name: str, state: Mapping[str, Tensor]) -> None:
    """Loads torchvision's state dict of the classification network `name` into `backbone`, strictly.

    Stages that the backbone does not have, because its levels end before them, are left out by name. RuntimeError, as
    from `load_state_dict`, when anything else is missing, too many or of another shape.
    """
    converted = convert_backbone_state(name, state)
    backbone.load_state_dict({key: value for key, value in converted.items() if not _beyond(backbone, key)})
