"""The models by name; a new model is one file here and one line in `MODELS`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any

from vision.layers.norm import replace_norms
from vision.models.base import TrainStep, VisionModel
from vision.structures import ClassMap

__all__ = ["MODELS", "TrainStep", "VisionModel", "build_model"]

# name -> "module:builder"; a builder takes (classes: ClassMap, **options) and is imported when it is first asked for
MODELS: dict[str, str] = {
    "deeplab_v1": "vision.models.deeplab_v1:build_deeplab_v1",
    "deeplab_v2": "vision.models.deeplab_v2:build_deeplab_v2",
    "encnet": "vision.models.encnet:build_encnet",
    "fastfcn": "vision.models.fastfcn:build_fastfcn",
    "fcn": "vision.models.fcn:build_fcn",
    "fcn_16s": "vision.models.fcn:build_fcn_16s",
    "fcn_32s": "vision.models.fcn:build_fcn_32s",
    "fcn_8s": "vision.models.fcn:build_fcn_8s",
    "lraspp": "vision.models.lraspp:build_lraspp",
    "multi_task": "vision.models.multi_task:build_multi_task",
    "pspnet": "vision.models.pspnet:build_pspnet",
    "segformer": "vision.models.segformer:build_segformer",
    "semantic_fpn": "vision.models.semantic_fpn:build_semantic_fpn",
    "unet_plus_plus": "vision.models.unet_plus_plus:build_unet_plus_plus",
    "deeplab_v3": "vision.models.deeplab:build_deeplab_v3",
    "deeplab_v3_plus": "vision.models.deeplab:build_deeplab_v3_plus",
    "unet": "vision.models.unet:build_unet",
    "retinanet_resnet18_fpn": "vision.models.retinanet:build_retinanet_resnet18_fpn",
    "retinanet_resnet50_fpn": "vision.models.retinanet:build_retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2": "vision.models.retinanet:build_retinanet_resnet50_fpn_v2",
    "retinanet_resnet101_fpn": "vision.models.retinanet:build_retinanet_resnet101_fpn",
    "fcos_resnet18_fpn": "vision.models.fcos:build_fcos_resnet18_fpn",
    "fcos_resnet50_fpn": "vision.models.fcos:build_fcos_resnet50_fpn",
    "fcos_resnet101_fpn": "vision.models.fcos:build_fcos_resnet101_fpn",
    "ssd300_vgg16": "vision.models.ssd:build_ssd300_vgg16",
    "ssd512_vgg16": "vision.models.ssd:build_ssd512_vgg16",
    "ssdlite320_mobilenet_v2": "vision.models.ssdlite:build_ssdlite320_mobilenet_v2",
    "ssdlite320_mobilenet_v3_large": "vision.models.ssdlite:build_ssdlite320_mobilenet_v3_large",
    "ssdlite320_mobilenet_v3_small": "vision.models.ssdlite:build_ssdlite320_mobilenet_v3_small",
    "centernet_mobilenet_v2": "vision.models.centernet:build_centernet_mobilenet_v2",
    "centernet_resnet18": "vision.models.centernet:build_centernet_resnet18",
    "centernet_resnet50": "vision.models.centernet:build_centernet_resnet50",
    "centernet_resnet101": "vision.models.centernet:build_centernet_resnet101",
    "fast_rcnn": "vision.models.faster_rcnn:build_fast_rcnn",
    "faster_rcnn": "vision.models.faster_rcnn:build_faster_rcnn",
    "faster_rcnn_c4": "vision.models.faster_rcnn:build_faster_rcnn_c4",
    "mask_rcnn": "vision.models.mask_rcnn:build_mask_rcnn",
    "cascade_rcnn": "vision.models.cascade_rcnn:build_cascade_rcnn",
    "cascade_mask_rcnn": "vision.models.cascade_rcnn:build_cascade_mask_rcnn",
    "panoptic_fpn": "vision.models.panoptic_fpn:build_panoptic_fpn",
    "yolo_n": "vision.models.yolo:build_yolo_n",
    "yolo_s": "vision.models.yolo:build_yolo_s",
    "yolo_m": "vision.models.yolo:build_yolo_m",
    "yolo_l": "vision.models.yolo:build_yolo_l",
    "yolo_x": "vision.models.yolo:build_yolo_x",
}


POSITIVE = ("width", "smallest_anchor", "size", "in_channels", "rate")  # options that are more than 0


def build_model(name: str, classes: ClassMap | Sequence[str] | int, **options: Any) -> VisionModel:
    """A freshly initialised model by its name in `MODELS`. Options are the builder's own keyword arguments.

    Every model takes `norms` besides: the name of what stands in place of all its batch norms (`replace_norms`).
    ValueError lists the known names when `name` is not one of them, and the builder's options when one is not known,
    and says what kind of value an option takes.
    """
    if name not in MODELS:
        raise ValueError(_unknown_model(name))
    module, builder = MODELS[name].split(":")
    build = getattr(importlib.import_module(module), builder)
    known = inspect.signature(build).parameters
    given, norms = options, options.get("norms")
    options = {key: value for key, value in options.items() if key != "norms"}
    unknown = [option for option in options if option not in known]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        allowed = ", ".join([*list(known)[1:], "norms"])
        raise ValueError(f"model {name!r} has no option {', '.join(unknown)}; its options are: {allowed}")
    _check_values(name, build, options)
    model = build(ClassMap.of(classes), **options)
    if norms is not None:
        replace_norms(model, norms)
    model.arguments = {"name": name, **given}
    return model


def _unknown_model(name: str) -> str:
    """What to say of a name that is not in `MODELS`: those near it, torchvision's names among them, or all."""
    plain = {known: _plain(known) for known in MODELS}
    wanted = _plain(name) or name
    near = [known for known, text in plain.items() if text == wanted]
    near = near or [known for known, text in plain.items() if wanted.startswith(text) or text.startswith(wanted)]
    near = near or difflib.get_close_matches(name.lower(), MODELS, n=3, cutoff=0.7)
    if near:
        return f"model {name!r} is not known; did you mean {', '.join(near)}? `vision models` lists all"
    return f"model {name!r} is not known; choose one of: {', '.join(sorted(MODELS))}"


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower().replace("+", "plus") if letter.isalnum())


def _check_values(name: str, build: Callable[..., VisionModel], options: dict[str, Any]) -> None:
    """ValueError for an option whose value is not of the plain kind that the builder's annotation names."""
    hints = typing.get_type_hints(getattr(build, "func", build))
    for option, value in options.items():
        expected = _unlike(hints.get(option), value, above=option in POSITIVE)
        if expected:
            default = inspect.signature(build).parameters[option].default
            raise ValueError(f"model {name!r}: option {option} {value!r}; expected {expected} (default: {default!r})")
    channels = (options.get("backbone_options") or {}).get("in_channels")
    if channels not in (None, options.get("in_channels", 3)):
        raise ValueError(
            f"model {name!r}: backbone_options in_channels {channels}; "
            + ("give the model's own option in_channels" if "in_channels" in hints else "it reads RGB images")
        )


def _unlike(hint: Any, value: Any, above: bool) -> str:
    """What an option of the type `hint` takes, where `value` is none of it; numbers from 0 on, or `above` 0."""
    lists = [one for one in (hint, *typing.get_args(hint)) if typing.get_origin(one) in (Sequence, tuple)]
    if lists:
        return "" if value is None or isinstance(value, list | tuple) else "a list"
    if hint in (int, float):
        fits = isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
        if fits and (value > 0 if above else value >= 0):
            return ""
        return f"a {'whole ' if hint is int else ''}number, {'more than 0' if above else '0 or more'}"
    if hint in (bool, str):
        return "" if isinstance(value, hint) else {bool: "true or false", str: "text"}[hint]
    return ""
