"""Faster R-CNN (arXiv:1506.01497) with a feature pyramid (arXiv:1612.03144) or on one map ("C4"), and Fast R-CNN."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vision.backbones import build_backbone
from vision.backbones.mobilenet import MOBILENETS
from vision.heads.mask import MaskHead
from vision.heads.roi import BoxStage, ConvBoxHead, ResNetBoxHead, TwoLayerBoxHead
from vision.heads.rpn import RPNHead
from vision.layers.norm import Norm
from vision.models.two_stage import RoiParts, RoiSettings, TwoStageDetector
from vision.necks.fpn import FeaturePyramid
from vision.ops.anchors import AnchorGenerator
from vision.structures import ClassMap

__all__ = [
    "RECIPES",
    "build_fast_rcnn",
    "build_faster_rcnn",
    "build_faster_rcnn_c4",
    "pyramid_parts",
    "read_settings",
    "with_masks",
]

RECIPES = ("v1", "v2")
_LARGE_TAPS = (13, 16)  # where torchvision's detector hooks MobileNetV3-large: both at stride 32


def _sizes(smallest: int = 32) -> tuple[int, ...]:
    """Sides of the anchors of five levels, in pixels."""
    return tuple(smallest * 2**level for level in range(5))


def read_settings(settings: Mapping[str, Any] | None, **defaults: Any) -> RoiSettings:
    """`RoiSettings` from a mapping over `defaults`; ValueError names the keys that it does not have."""
    settings = dict(settings or {})
    unknown = set(settings) - set(RoiSettings.__dataclass_fields__)
    if unknown:
        raise ValueError(
            f"settings: unknown {', '.join(sorted(unknown))}; known: {', '.join(RoiSettings.__annotations__)}"
        )
    nested = {key: tuple(map(tuple, settings[key])) for key in ("box_weights",) if key in settings}
    flat = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return dataclasses.replace(RoiSettings(**defaults), **{**flat, **nested})


def _box_head(recipe: str, width: int, hidden: int) -> nn.Module:
    if recipe == "v2":
        return ConvBoxHead(width, width=hidden, hidden=width)
    return TwoLayerBoxHead(width, width=hidden)


def pyramid_parts(
    classes: int,
    backbone: str,
    recipe: str,
    width: int = 256,
    hidden: int = 1024,
    backbone_options: Mapping[str, Any] | None = None,
    smallest_anchor: int = 32,
) -> RoiParts:
    """Parts of a detector on a pyramid of `width` channels, its one box stage with layers of `hidden`.

    MobileNetV3-large is hooked where torchvision hooks it (two maps, both of stride 32, 15 anchors a place), any
    other backbone at levels 2 to 5. Recipe "v2" (arXiv:2111.11429): norms in the pyramid, two convolutions in the RPN
    and four in the box head. The anchors have sides from `smallest_anchor` pixels on, doubled from level to level.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe {recipe!r}; choose one of {', '.join(RECIPES)}")
    later = recipe == "v2"
    options = dict(backbone_options or {})
    if "taps" in options:
        raise ValueError("backbone_options taps: regions are read from levels of the backbone; give `levels`")
    if backbone == "mobilenet_v3_large" and "levels" not in options:
        network = build_backbone(backbone, taps=_LARGE_TAPS, **options)
        sizes = (_sizes(smallest_anchor),) * (len(_LARGE_TAPS) + 1)
    else:
        network = build_backbone(backbone, **{"levels": (2, 3, 4, 5), **options})
        sizes = tuple((size,) for size in _sizes(smallest_anchor)[: len(network.channels) + 1])
    neck = FeaturePyramid(network.channels, width, extra="pool", norm="batch" if later else None)
    anchors = AnchorGenerator(sizes)
    return RoiParts(
        backbone=network,
        neck=neck,
        stages=[BoxStage(_box_head(recipe, width, hidden), classes)],
        roi_strides=network.strides,
        rpn=RPNHead(width, anchors.counts[0], depth=2 if later else 1),
        anchors=anchors,
    )


def build_faster_rcnn(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    recipe: str = "v1",
    width: int = 256,
    hidden: int = 1024,
    smallest_anchor: int = 32,
    masks: bool = False,
    stages: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
) -> TwoStageDetector:
    """Faster R-CNN with a pyramid on any backbone, as torchvision's fasterrcnn_*_fpn (recipe "v1" or "v2").

    `masks` adds the mask head (Mask R-CNN); `stages`, the settings of several box stages with class-agnostic boxes
    (Cascade R-CNN). `settings`: fields of `RoiSettings`; `backbone_options`: of `BackboneOptions`.
    """
    resolved = read_settings(settings, **(stages or {}))
    parts = pyramid_parts(len(classes), backbone, recipe, width, hidden, backbone_options, smallest_anchor)
    if stages:
        boxes = [
            BoxStage(_box_head(recipe, width, hidden), len(classes), class_agnostic=True) for _ in resolved.stage_ious
        ]
        parts = dataclasses.replace(parts, stages=boxes)
    if masks:
        parts = with_masks(parts, len(classes), recipe, width)
    return TwoStageDetector(classes, parts, resolved)


def with_masks(parts: RoiParts, classes: int, recipe: str, width: int) -> RoiParts:
    """The parts with Mask R-CNN's head beside the box stage, with norms in recipe "v2"."""
    head = MaskHead(width, classes, norm="batch" if recipe == "v2" else None, width=width)
    return dataclasses.replace(parts, mask_head=head)


def build_fast_rcnn(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    width: int = 256,
    hidden: int = 1024,
    settings: Mapping[str, Any] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
) -> TwoStageDetector:
    """Fast R-CNN (arXiv:1504.08083): the same without an RPN, for proposals of your own, given to `forward`.

    Where none are given, sliding windows stand in for them (the paper's section 5.5): of sides 32 to 512 and three
    ratios at every half side, evenly thinned to the number of proposals in `settings`.
    """
    parts = pyramid_parts(len(classes), backbone, "v1", width, hidden, backbone_options)
    neck = FeaturePyramid(parts.backbone.channels, width)
    windows = AnchorGenerator([(side,) for side in _sizes()], strides=[side // 2 for side in _sizes()])
    return TwoStageDetector(
        classes, dataclasses.replace(parts, neck=neck, rpn=None, anchors=windows), read_settings(settings)
    )


class _SingleMap(nn.Module):
    """In the place of a neck: the one map as it is."""

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return features


def build_faster_rcnn_c4(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    settings: Mapping[str, Any] | None = None,
    norm: Norm = "batch",
    backbone_options: Mapping[str, Any] | None = None,
) -> TwoStageDetector:
    """Faster R-CNN on level 4 of a ResNet, whose last stage classifies regions of 14 x 14 cells (Detectron's C4).

    `norm` is of both, as is that of the `backbone_options`, which can change neither the level nor the width.
    """
    if backbone in MOBILENETS:
        raise ValueError(f"faster_rcnn_c4: backbone {backbone!r}; it needs a ResNet")
    options = {"levels": (4,), "norm": norm, **(backbone_options or {})}
    if tuple(options["levels"]) != (4,) or options.get("width", 1.0) != 1.0:
        raise ValueError(
            f"faster_rcnn_c4: backbone_options {dict(backbone_options)}; its last stage reads level 4 of a network of "
            "width 1: leave levels and width out"
        )
    network = build_backbone(backbone, **options)
    anchors = AnchorGenerator((_sizes(),))
    parts = RoiParts(
        backbone=network,
        neck=_SingleMap(),
        stages=[BoxStage(ResNetBoxHead(backbone, options["norm"]), len(classes))],
        roi_strides=network.strides,
        rpn=RPNHead(network.channels[0], anchors.counts[0]),
        anchors=anchors,
        pool_size=14,
    )
    return TwoStageDetector(classes, parts, read_settings(settings))
