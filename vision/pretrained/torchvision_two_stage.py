"""torchvision's Faster and Mask R-CNN state dicts under our keys and in our order of classes; nothing is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["convert_two_stage_state", "load_two_stage_state"]

# in this order; the first that matches the start of a key renames it
_PREFIXES = (
    (r"backbone\.body\.(?=\d)", "backbone.features."),  # MobileNets are a bare list there
    (r"backbone\.body\.", "backbone."),
    (r"backbone\.fpn\.", "neck."),
    (r"rpn\.head\.", "rpn."),
    (r"roi_heads\.box_head\.", "stages.0.head."),
    (r"roi_heads\.box_predictor\.", "stages.0.predictor."),
    (r"roi_heads\.mask_head\.mask_fcn(?=\d)", "mask_head.convs.fcn"),
    (r"roi_heads\.mask_head\.", "mask_head.convs."),
    (r"roi_heads\.mask_predictor\.", "mask_head."),
)
# checkpoints from before torchvision 0.13 number one level less
_OLD = (
    (re.compile(r"^(neck\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^rpn\.conv\.(weight|bias)$"), r"rpn.conv.0.0.\1"),
)
_OLD_MASK = re.compile(r"^mask_head\.convs\.fcn(\d)\.(weight|bias)$")
_EPSILON = 1e-5  # what our frozen norms add to the variance


def _rename(key: str) -> str:
    for pattern, replacement in _PREFIXES:
        renamed, count = re.subn("^" + pattern, replacement, key)
        if count:
            key = renamed
            break
    for pattern, replacement in _OLD:
        key = pattern.sub(replacement, key)
    old = _OLD_MASK.match(key)
    return f"mask_head.convs.{int(old[1]) - 1}.0.{old[2]}" if old else key


def convert_two_stage_state(
    state: Mapping[str, Tensor], columns: Sequence[int] | None = None, *, zero_epsilon: bool = False
) -> dict[str, Tensor]:
    """A torchvision two-stage detector's state dict for our `faster_rcnn` or `mask_rcnn` of the same recipe.

    `columns`: for each of our labels its column in theirs, where column 0 is the background; None: all others, in
    order. COCO's 91 columns become 80 classes by its category ids. The background moves to the end of the class
    scores and has no boxes and no masks. `zero_epsilon`: the checkpoint was made by norms without an epsilon
    (torchvision's first R-CNN checkpoints); the variances then shrink by ours.
    """
    rows = state["roi_heads.box_predictor.cls_score.weight"].shape[0]
    kept = torch.tensor(list(columns) if columns is not None else list(range(1, rows)))
    if kept.numel() == 0 or kept.min() < 1 or kept.max() >= rows:
        raise ValueError(f"convert_two_stage_state: columns {kept.tolist()}; expected some of 1..{rows - 1}")
    converted = {}
    for key, value in state.items():
        if ".box_predictor.cls_score." in key:
            value = value[torch.cat([kept, torch.zeros(1, dtype=torch.long)])]
        elif ".box_predictor.bbox_pred." in key:
            value = value.unflatten(0, (rows, 4))[kept].flatten(0, 1)
        elif ".mask_predictor.mask_fcn_logits." in key:
            value = value[kept]
        elif zero_epsilon and key.endswith("running_var"):
            value = value - _EPSILON
        converted[_rename(key)] = value
    return converted


def load_two_stage_state(
    model: nn.Module, state: Mapping[str, Tensor], columns: Sequence[int] | None = None, *, zero_epsilon: bool = False
) -> None:
    """Loads a torchvision two-stage detector's state dict, converted as above, into our model, strictly.

    The normalisation of the input is not in their checkpoints; the model keeps its own, which is the same. Checkpoints
    with frozen norms need a model with `backbone_options={"norm": "frozen_batch"}`.
    """
    converted = convert_two_stage_state(state, columns, zero_epsilon=zero_epsilon)
    model.load_state_dict({"mean": model.mean, "std": model.std, **converted})
