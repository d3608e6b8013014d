"""torchvision's checkpoints of one-stage detectors under our keys, and their class columns in our order.

Each function renames every key; `load_dense_state` loads the result strictly. `columns` are torchvision's
class columns of our labels in order: 1, 2, ... for a model trained without gaps, the category ids for COCO's 91.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = [
    "DENSE_CONVERTERS",
    "convert_fcos_state",
    "convert_retinanet_state",
    "convert_ssd_state",
    "convert_ssdlite_state",
    "load_dense_state",
]

Renaming = Sequence[tuple[str, str]]

_PYRAMID: Renaming = (
    (r"^backbone\.body\.", "backbone."),
    # published files are older than the block around each convolution
    (r"^backbone\.fpn\.(inner_blocks|layer_blocks)\.(\d+)\.(weight|bias)$", r"neck.\1.\2.0.\3"),
    (r"^backbone\.fpn\.", "neck."),
    (r"^head\.classification_head\.cls_logits\.", "head.class_logits."),
    (r"^head\.regression_head\.bbox_reg\.", "head.box_deltas."),
    (r"^head\.regression_head\.bbox_ctrness\.", "head.quality."),
    (r"^head\.classification_head\.conv\.", "head.class_tower."),
    (r"^head\.regression_head\.conv\.", "head.box_tower."),
)
_LEVELS: Renaming = (
    (r"^head\.classification_head\.module_list\.", "head.class_predictors."),
    (r"^head\.regression_head\.module_list\.", "head.box_predictors."),
)


def _rename(state: Mapping[str, Tensor], rules: Renaming) -> dict[str, Tensor]:
    """`state` with the first rule that fits applied to each key; KeyError names one that none fits."""
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            new, count = re.subn(pattern, replacement, key)
            if count:
                renamed[new] = value
                break
        else:
            raise KeyError(f"{key} is not a key of this torchvision model; is the file of another one?")
    return renamed


def _tower_position(key: str, step: int) -> str:
    """A flat position in a tower, `step` layers a block, as block and layer within it."""
    match = re.match(r"^(head\.(?:class|box)_tower)\.(\d+)\.(weight|bias)$", key)
    if match is None:
        return key
    position = int(match[2])
    return f"{match[1]}.{position // step}.{position % step}.{match[3]}"


def _choose_columns(state: dict[str, Tensor], pattern: str, columns: Sequence[int]) -> dict[str, Tensor]:
    """The class convolutions reduced to `columns` of each anchor; the box convolutions tell how many anchors."""
    index = torch.tensor(columns)
    for key in [key for key in state if re.search(pattern + r"bias$", key)]:
        anchors = len(state[key.replace("class_logits", "box_deltas").replace("class_", "box_")]) // 4
        for name in (key, key.removesuffix("bias") + "weight"):
            by_anchor = state[name].unflatten(0, (anchors, -1))
            if max(columns) >= by_anchor.shape[1]:
                raise ValueError(f"{name} has {by_anchor.shape[1]} class columns, so none numbered {max(columns)}")
            state[name] = by_anchor[:, index.to(by_anchor.device)].flatten(0, 1)
    return state


def convert_retinanet_state(state: Mapping[str, Tensor], columns: Sequence[int]) -> dict[str, Tensor]:
    """`retinanet_resnet50_fpn` (also the published file's older keys) and `_v2`, for `models.retinanet`."""
    renamed = {_tower_position(key, 2): value for key, value in _rename(state, _PYRAMID).items()}
    return _choose_columns(renamed, r"head\.class_logits\.", columns)


def convert_fcos_state(state: Mapping[str, Tensor], columns: Sequence[int]) -> dict[str, Tensor]:
    """`fcos_resnet50_fpn`, for `models.fcos`."""
    renamed = {_tower_position(key, 3): value for key, value in _rename(state, _PYRAMID).items()}
    return _choose_columns(renamed, r"head\.class_logits\.", columns)


def convert_ssd_state(state: Mapping[str, Tensor], columns: Sequence[int]) -> dict[str, Tensor]:
    """`ssd300_vgg16`, for `models.ssd`; the background column moves behind the others."""

    def behind_conv4(match: re.Match) -> str:
        return f"backbone.backbone.features.{23 + int(match[1])}."

    rules = (
        (r"^backbone\.features\.", "backbone.backbone.features."),
        (r"^backbone\.scale_weight$", "backbone.scale"),
        (r"^backbone\.extra\.0\.7\.", "backbone.deep."),
        (r"^backbone\.extra\.0\.(\d+)\.", behind_conv4),
        (r"^backbone\.extra\.([1-9])\.", lambda match: f"backbone.extras.{int(match[1]) - 1}."),
        *_LEVELS,
    )
    return _choose_columns(_rename(state, rules), r"class_predictors\.\d+\.", [*columns, 0])


def convert_ssdlite_state(state: Mapping[str, Tensor], columns: Sequence[int]) -> dict[str, Tensor]:
    """`ssdlite320_mobilenet_v3_large`, for `models.ssdlite`; the background column moves behind the others."""
    features = "backbone.backbone.features."
    rules = (
        (r"^backbone\.features\.0\.13\.", features + "13.block.0."),
        (r"^backbone\.features\.0\.", features),
        (r"^backbone\.features\.1\.0\.", features + "13.block."),
        (r"^backbone\.features\.1\.(\d+)\.", lambda match: f"{features}{13 + int(match[1])}."),
        (r"^backbone\.extra\.", "backbone.extras."),
        *_LEVELS,
    )
    return _choose_columns(_rename(state, rules), r"class_predictors\.\d+\.1\.", [*columns, 0])


# torchvision's name -> our name in MODELS, and the function that converts its state dict
DENSE_CONVERTERS: dict[str, tuple[str, Callable[[Mapping[str, Tensor], Sequence[int]], dict[str, Tensor]]]] = {
    "retinanet_resnet50_fpn": ("retinanet_resnet50_fpn", convert_retinanet_state),
    "retinanet_resnet50_fpn_v2": ("retinanet_resnet50_fpn_v2", convert_retinanet_state),
    "fcos_resnet50_fpn": ("fcos_resnet50_fpn", convert_fcos_state),
    "ssd300_vgg16": ("ssd300_vgg16", convert_ssd_state),
    "ssdlite320_mobilenet_v3_large": ("ssdlite320_mobilenet_v3_large", convert_ssdlite_state),
}


def load_dense_state(
    model: nn.Module,
    name: str,
    state: Mapping[str, Tensor],
    columns: Sequence[int],
    *,
    zero_epsilon: bool = False,
) -> None:
    """Loads torchvision's state dict of the detector `name` into our `model`, strictly; mean and std stay the model's.

    `zero_epsilon`: the weights were made by batch norms without an epsilon, as the published retinanet_resnet50_fpn;
    ours is taken off the variances. ValueError for an unknown name; RuntimeError, as from `load_state_dict`, when
    anything is missing or does not fit.
    """
    if name not in DENSE_CONVERTERS:
        raise ValueError(f"{name!r} is not a one-stage detector of torchvision; choose one of {list(DENSE_CONVERTERS)}")
    converted = DENSE_CONVERTERS[name][1](state, columns)
    if zero_epsilon:
        for module_name, module in model.named_modules():
            key = f"{module_name}.running_var"
            if key in converted:
                converted[key] = converted[key] - module.eps
    model.load_state_dict({**converted, "mean": model.mean, "std": model.std})
