"""SSDlite: SSD with depthwise separable layers on a MobileNet (arXiv:1801.04381, section 6.2; 1905.02244, 6.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from vision.backbones import build_backbone
from vision.backbones.base import Backbone, BackboneOptions
from vision.backbones.mobilenet import MOBILENETS, MobileNet, MobileNetShape
from vision.heads.dense import PerLevelHead
from vision.layers.conv import ConvNormAct
from vision.layers.norm import BatchNorm, Norm
from vision.models.ssd import SSD, ExtendedLevels
from vision.ops.default_boxes import DefaultBoxes, linear_scales
from vision.structures import ClassMap

__all__ = ["build_ssdlite", "reduce_tail"]

TAPPED = ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")  # whose expansions are read
NORM = partial(BatchNorm, eps=1e-3, momentum=0.03)


def reduce_tail(shape: MobileNetShape) -> MobileNetShape:
    """MobileNetV3 with half the channels in its last stage (arXiv:1905.02244, section 6.3), as for detection."""
    *blocks, first, second, third = shape.blocks
    halved = [replace(first, channels=first.channels // 2)]
    halved += [replace(b, expanded=b.expanded // 2, channels=b.channels // 2) for b in (second, third)]
    return replace(shape, blocks=(*blocks, *halved))


def ssdlite_levels(
    name: str, *, reduced: bool = False, fine: bool = False, options: Mapping[str, Any]
) -> ExtendedLevels:
    """Maps at stride 16 and 32, with `fine` 8 before them, and four extra ones: 6 or 7 levels.

    Of a MobileNetV2 or V3 the first ones are the expansions before the strides, as in the papers; of any other backbone
    its levels 3 to 5. `options` are the backbone's; norm and width are the extra maps' too.
    """
    norm, width = options["norm"], options["width"]
    if name in TAPPED:
        shape = reduce_tail(MOBILENETS[name]) if reduced and name != "mobilenet_v2" else MOBILENETS[name]
        strided = [i for i, row in enumerate(shape.blocks, start=1) if row.stride == 2]
        taps = (*(f"{i}.expand" for i in strided[-2 if fine else -1 :]), len(shape.blocks) + 1)
        body: Backbone = MobileNet(shape, BackboneOptions(**options), taps)
    else:
        own = ("norm", "width") if name.startswith("timm:") else ()  # timm's networks have theirs
        shared = {option: value for option, value in options.items() if option not in own}
        body = build_backbone(name, **{"levels": (3, 4, 5) if fine else (4, 5), **shared})
    channels = [max(16, int(count * width)) for count in (512, 256, 256, 128)]
    inputs = (body.channels[-1], *channels)
    levels = ExtendedLevels(body, [_shrink(before, after, norm) for before, after in zip(inputs, channels)], channels)
    draw_normal(levels if name in TAPPED else levels.extras)
    return levels


def _shrink(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    """Half the size: 1x1 to half the output channels, depthwise 3x3 with stride 2, 1x1."""
    middle = outputs // 2
    return nn.Sequential(
        ConvNormAct(inputs, middle, 1, norm=norm, activation="relu6"),
        ConvNormAct(middle, middle, 3, 2, groups=middle, norm=norm, activation="relu6"),
        ConvNormAct(middle, outputs, 1, norm=norm, activation="relu6"),
    )


def draw_normal(module: nn.Module) -> None:
    """Draws all convolutions anew with standard deviation 0.03 and zero bias, as both papers' TensorFlow code does."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=0.03)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def build_ssdlite(
    classes: ClassMap,
    *,
    backbone: str = "mobilenet_v3_large",
    reduced: bool = True,
    width: float = 1.0,
    fine: bool = False,
    smallest: float = 0.2,
    box_loss: str | Mapping[str, Any] = "smooth_l1",
    backbone_options: dict[str, Any] | None = None,
) -> SSD:
    """SSDlite. `reduced` halves the last stage of a MobileNetV3; `width` multiplies all channels. Made for 320 px.

    Any backbone will do, with its levels 4 and 5; MobileNets are read where the papers have it.

    For small objects: `fine` adds a level of stride 8, `smallest` is the side of the smallest boxes as a share of the
    image's. `box_loss` as in `losses.detection`. A `norm` of `backbone_options` is that of the
    extra levels and the head too.
    """
    if not 0 < smallest < 0.95:
        raise ValueError(f"build_ssdlite: smallest {smallest}; expected a share of the image's side, 0 < share < 0.95")
    options = {"norm": NORM, "width": width, **(backbone_options or {})}
    body = ssdlite_levels(backbone, reduced=reduced, fine=fine, options=options)
    levels = len(body.channels)
    anchors = DefaultBoxes([[2, 3]] * levels, linear_scales(levels, smallest, 0.95))
    head = PerLevelHead(body.channels, anchors.counts, len(classes) + 1, separable=True, norm=options["norm"])
    draw_normal(head)
    half = (0.5, 0.5, 0.5)
    model = SSD(classes, body, head, anchors, candidates=300, box_loss=box_loss, mean=half, std=half)
    model.score_threshold, model.iou_threshold, model.max_detections = 0.001, 0.55, 300
    return model


build_ssdlite320_mobilenet_v3_large = partial(build_ssdlite, backbone="mobilenet_v3_large")
build_ssdlite320_mobilenet_v3_small = partial(build_ssdlite, backbone="mobilenet_v3_small")
build_ssdlite320_mobilenet_v2 = partial(build_ssdlite, backbone="mobilenet_v2")
