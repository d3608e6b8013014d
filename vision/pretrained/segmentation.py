"""Segmentation state dicts of torchvision and segmentation_models.pytorch under our models' keys.

Every foreign key is known here by a rule; the results load strictly. `SOURCES` says which of our models, built with
which options, each foreign model is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vision.models import build_model
from vision.models.segmenter import Segmenter
from vision.pretrained.torchvision_backbones import convert_backbone_state
from vision.structures import ClassMap

__all__ = ["SOURCES", "convert_segmentation_state", "equivalent_options", "load_segmentation_state"]

# torchvision's name -> our model and its options
_TORCHVISION: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"fcn_{backbone}": ("fcn", {"backbone": backbone, "output_stride": 8, "auxiliary": 0.5})
        for backbone in ("resnet50", "resnet101")
    },
    **{
        f"deeplabv3_{backbone}": (
            "deeplab_v3",
            {"backbone": backbone, "output_stride": stride, "rates": [12, 24, 36], "auxiliary": 0.5, **taps},
        )
        for backbone, stride, taps in (
            ("resnet50", 8, {}),
            ("resnet101", 8, {}),
            ("mobilenet_v3_large", 16, {"backbone_options": {"taps": [4, 16]}}),
        )
    },
    "lraspp_mobilenet_v3_large": ("lraspp", {"output_stride": 16, "backbone_options": {"taps": [4, 16]}}),
}
# the architectures of segmentation_models.pytorch with their default options, any encoder of ours
_SMP: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("unet", {"widths": [256, 128, 64, 32, 16], "up_convolution": False, "classifier_kernel": 3}),
    "fpn": ("semantic_fpn", {"align_corners": True}),
    "pspnet": (
        "pspnet",
        {"output_stride": 32, "level": 3, "kernels": [1, 3], "image_norm": None, "align_corners": True},
    ),
    "deeplabv3": (
        "deeplab_v3",
        {
            "output_stride": 8,
            "rates": [12, 24, 36],
            "align_corners": True,
            "backbone_options": {"levels": [5], "dilation_rule": "uniform"},
        },
    ),
    "deeplabv3plus": (
        "deeplab_v3_plus",
        {
            "output_stride": 16,
            "rates": [12, 24, 36],
            "align_corners": True,
            "backbone_options": {"dilation_rule": "uniform"},
        },
    ),
}
SOURCES = (*(f"torchvision:{name}" for name in _TORCHVISION), *(f"smp:{name}:ENCODER" for name in _SMP))


def equivalent_options(source: str) -> tuple[str, dict[str, Any]]:
    """Our model's name and options for a foreign model: "torchvision:fcn_resnet50", "smp:unet:resnet18", ...

    ValueError lists the sources that are known.
    """
    library, _, rest = source.partition(":")
    name, _, encoder = rest.partition(":")
    if library == "torchvision" and name in _TORCHVISION:
        model, options = _TORCHVISION[name]
        return model, dict(options)
    if library == "smp" and name in _SMP and encoder:
        model, options = _SMP[name]
        return model, {"backbone": encoder, **options}
    raise ValueError(f"segmentation weights {source!r} are not known; choose one of: {', '.join(SOURCES)}")


def load_segmentation_state(source: str, classes: ClassMap, state: Mapping[str, Tensor]) -> Segmenter:
    """Our model for `source` with the foreign state dict loaded strictly, with auxiliary heads where it has them, and
    as many input channels as it has."""
    name, options = equivalent_options(source)
    if options.get("auxiliary") and not any(key.startswith("aux_classifier.") for key in state):
        options["auxiliary"] = 0.0
    channels = next((value.shape[1] for value in state.values() if value.ndim == 4), 3)  # of the first convolution
    if channels != 3:
        options["in_channels"] = channels
    model = build_model(name, classes, **options)
    converted = convert_segmentation_state(source, state)
    normalisation = {"mean": model.mean, "std": model.std}  # not part of the foreign model
    model.load_state_dict({**converted, **normalisation})
    return model


def convert_segmentation_state(source: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` renamed to the keys of our model for `source`. ValueError names a key that no rule knows."""
    equivalent_options(source)
    library, name, encoder = [*source.split(":"), ""][:3]
    rules = _TORCHVISION_RULES[name.split("_")[0]] if library == "torchvision" else _SMP_RULES[name]
    backbone = {}
    prefix = "backbone." if library == "torchvision" else "encoder."
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(prefix):
            backbone[_backbone_key(key.removeprefix(prefix), library, name)] = value
        else:
            converted[_rename(key, rules, source)] = value
    converted |= {f"backbone.{k}": v for k, v in _backbone_state(backbone, name, encoder).items()}
    if (library, name) == ("smp", "pspnet"):
        _reorder_pyramid(converted)
    return converted


def _backbone_key(key: str, library: str, name: str) -> str:
    """torchvision's IntermediateLayerGetter numbers the MobileNets' layers without their prefix."""
    return f"features.{key}" if library == "torchvision" and "mobilenet" in name else key


def _backbone_state(state: Mapping[str, Tensor], name: str, encoder: str) -> dict[str, Tensor]:
    kept = convert_backbone_state(state)
    if name == "pspnet":  # it reads levels up to 3 only; the encoder is stored whole
        beyond = (
            ("layer3.", "layer4.") if encoder.startswith("resne") else tuple(f"features.{i}." for i in range(7, 19))
        )
        kept = {key: value for key, value in kept.items() if not key.startswith(beyond)}
    return kept


def _rename(key: str, rules: list[tuple[str, str]], source: str) -> str:
    for pattern, replacement in rules:
        renamed, count = re.subn(f"^{pattern}", replacement, key)
        if count:
            return renamed
    raise ValueError(f"{source}: its state dict has the key {key!r}, which this model does not have")


def _reorder_pyramid(state: dict[str, Tensor]) -> None:
    """smp joins the pooled levels before the map, we after it: the input channels of the next convolution move."""
    key = "head.head.1.0.weight"
    pooled, whole = state[key].chunk(2, dim=1)
    state[key] = torch.cat([whole, pooled], dim=1)


_ASPP = [
    (r"convs\.4\.1\.", "branches.4.project.0."),
    (r"convs\.4\.2\.", "branches.4.project.1."),
    (r"convs\.(\d)\.", r"branches.\1."),
    (r"project\.", "project."),
]
_FCN_HEAD = [(r"0\.", "0.0."), (r"1\.", "0.1."), (r"4\.", "2.")]


def _under(foreign: str, ours: str, rules: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(foreign + pattern, ours + replacement) for pattern, replacement in rules]


_AUXILIARY = _under(r"aux_classifier\.", "auxiliary.0.head.", _FCN_HEAD)
_TORCHVISION_RULES = {
    "fcn": [*_AUXILIARY, *_under(r"classifier\.", "head.head.", _FCN_HEAD)],
    "deeplabv3": [
        *_AUXILIARY,
        *_under(r"classifier\.0\.", "head.head.0.", _ASPP),
        *_under(r"classifier\.", "head.head.", [(r"1\.", "1.0."), (r"2\.", "1.1."), (r"4\.", "2.")]),
    ],
    "lraspp": [
        (r"classifier\.cbr\.", "head.project."),
        (r"classifier\.scale\.1\.", "head.gate."),
        (r"classifier\.(low|high)_classifier\.", r"head.\1_classifier."),
    ],
}
_SMP_RULES = {
    "unet": [
        (r"decoder\.blocks\.(\d)\.conv1\.", r"head.blocks.\1.convolutions.first."),
        (r"decoder\.blocks\.(\d)\.conv2\.", r"head.blocks.\1.convolutions.second."),
        (r"segmentation_head\.0\.", "head.classifier."),
    ],
    "fpn": [
        (r"decoder\.p5\.", "head.lateral.3."),
        *((rf"decoder\.p{level + 2}\.skip_conv\.", f"head.lateral.{level}.") for level in range(3)),
        *(
            (rf"decoder\.seg_blocks\.{3 - level}\.block\.(\d)\.block\.", rf"head.branches.{level}.\1.")
            for level in range(4)
        ),
        (r"segmentation_head\.0\.", "head.classifier."),
    ],
    "pspnet": [
        (r"decoder\.psp\.blocks\.0\.pool\.1\.", "head.head.0.levels.0.project."),
        (r"decoder\.psp\.blocks\.(\d)\.pool\.1\.", r"head.head.0.levels.\1."),
        (r"decoder\.conv\.", "head.head.1."),
        (r"segmentation_head\.0\.", "head.head.3."),
    ],
    "deeplabv3": [
        *_under(r"decoder\.aspp\.", "head.head.0.", _ASPP),
        (r"decoder\.conv\.", "head.head.1.0."),
        (r"decoder\.bn\.", "head.head.1.1."),
        (r"segmentation_head\.0\.", "head.head.2."),
    ],
    "deeplabv3plus": [
        (r"decoder\.aspp\.0\.convs\.([123])\.0\.1\.", r"head.aspp.branches.\1.1.0."),
        (r"decoder\.aspp\.0\.convs\.([123])\.0\.0\.", r"head.aspp.branches.\1.0."),
        (r"decoder\.aspp\.0\.convs\.([123])\.1\.", r"head.aspp.branches.\1.1.1."),
        *_under(r"decoder\.aspp\.0\.", "head.aspp.", _ASPP),
        (r"decoder\.aspp\.1\.0\.", "head.refine.0."),
        (r"decoder\.aspp\.1\.1\.", "head.refine.1.0."),
        (r"decoder\.aspp\.2\.", "head.refine.1.1."),
        (r"decoder\.block1\.", "head.skip."),
        (r"decoder\.block2\.0\.0\.", "head.fuse.0."),
        (r"decoder\.block2\.0\.1\.", "head.fuse.1.0."),
        (r"decoder\.block2\.1\.", "head.fuse.1.1."),
        (r"segmentation_head\.0\.", "head.classifier."),
    ],
}
