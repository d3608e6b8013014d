"""torchvision's classification state dicts under our backbones' keys; only the classifier is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from vision.backbones.base import Backbone
from vision.heads.roi import ResNetBoxHead

__all__ = ["convert_backbone_state", "load_backbone_state", "start_backbones"]

_CLASSIFIERS = ("fc.", "classifier.")
# MobileNetV2, and it alone, keeps the last convolution of a block and its norm as two entries of `conv`
_V2_BLOCK = re.compile(r"^(features\.\d+)\.conv\.(\d+)\.(.+)$")


def convert_backbone_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's state dict of a classification network, renamed to our keys, without its classifier."""
    converted = {}
    for key, value in state.items():
        if key.startswith(_CLASSIFIERS):
            continue
        match = _V2_BLOCK.match(key)
        if match:
            block, index, rest = match[1], int(match[2]), match[3]
            if not rest[0].isdigit():  # "2.weight" is the projection, "3.weight" its norm (1 and 2 in the first block)
                rest = ("0." if value.ndim == 4 else "1.") + rest
                index -= value.ndim != 4
            key = f"{block}.block.{index}.{rest}"
        converted[key] = value
    return converted


def _beyond(backbone: nn.Module, key: str) -> bool:
    """Whether `key` belongs to a stage that `backbone` leaves out because no level asks for it."""
    stage = re.match(r"^layer(\d)\.", key)
    if stage:
        return not hasattr(backbone, f"layer{stage[1]}")
    feature = re.match(r"^features\.(\d+)\.", key)
    return feature is not None and int(feature[1]) >= len(getattr(backbone, "features", ()))


def load_backbone_state(backbone: Backbone, state: Mapping[str, Tensor]) -> None:
    """Loads torchvision's state dict of a classification network into `backbone`, strictly.

    Stages that the backbone does not have, because its levels end before them, are left out by name. RuntimeError, as
    from `load_state_dict`, when anything else is missing, too many or of another shape.
    """
    converted = convert_backbone_state(state)
    backbone.load_state_dict({key: value for key, value in converted.items() if not _beyond(backbone, key)})


def start_backbones(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Loads torchvision's state dict of a classification network into every backbone of `model`, as above.

    The last stage of a C4 head is part of the backbone. Returns the keys of the model that were loaded; none of a model
    without a backbone of ours.
    """
    loaded: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, Backbone):
            load_backbone_state(module, state)
        elif isinstance(module, ResNetBoxHead):
            module.load_state_dict({key: value for key, value in state.items() if key.startswith("layer4.")})
        else:
            continue
        loaded += [f"{name}.{key}" for key in module.state_dict()]
    return loaded
