"""SSDlite: SSD with depthwise separable layers on a MobileNet (arXiv:1801.04381, section 6.2; 1905.02244, 6.3)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from vision.backbones.base import BackboneOptions
from vision.backbones.mobilenet import MOBILENETS, MobileNet, MobileNetShape
from vision.heads.dense import LevelHead
from vision.layers.conv import ConvNormAct, run_on_small_map
from vision.layers.norm import BatchNorm
from vision.models.ssd import SSD
from vision.ops.default_boxes import DefaultBoxes, linear_scales
from vision.structures import ClassMap

__all__ = ["MobileLevels", "build_ssdlite", "reduce_tail"]


def reduce_tail(shape: MobileNetShape) -> MobileNetShape:
    """MobileNetV3 with half the channels in its last stage (arXiv:1905.02244, section 6.3), as for detection."""
    *blocks, first, second, third = shape.blocks
    halved = [replace(first, channels=first.channels // 2)]
    halved += [replace(b, expanded=b.expanded // 2, channels=b.channels // 2) for b in (second, third)]
    return replace(shape, blocks=(*blocks, *halved))


class MobileLevels(nn.Module):
    """A MobileNet's maps at stride 16 (the expansion before the last stride) and 32, and four extra ones: 6 levels.

    `fine` adds the expansion before the stride that leads to 16 in front of them, a map at stride 8.
    """

    def __init__(self, name: str, *, reduced: bool, width: float, fine: bool = False):
        super().__init__()
        if name not in ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"):
            choices = "mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small"
            raise ValueError(f"SSDlite: backbone {name!r}; choose one of {choices}")
        norm = partial(BatchNorm, eps=1e-3, momentum=0.03)
        shape = MOBILENETS[name]
        if reduced and shape.version == 3:
            shape = reduce_tail(shape)
        strided = [i for i, row in enumerate(shape.blocks, start=1) if row.stride == 2]
        taps = (*(f"{i}.expand" for i in strided[-2 if fine else -1 :]), len(shape.blocks) + 1)
        self.backbone = MobileNet(shape, BackboneOptions(norm=norm, width=width), taps)
        channels = [max(16, int(count * width)) for count in (512, 256, 256, 128)]
        inputs = [self.backbone.channels[-1], *channels]
        self.extras = nn.ModuleList(_shrink(before, after, norm) for before, after in zip(inputs, channels))
        self.channels = (*self.backbone.channels, *channels)
        draw_normal(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = self.backbone(x)
        for extra in self.extras:
            levels.append(run_on_small_map(extra, levels[-1]))
        return levels


def _shrink(inputs: int, outputs: int, norm: partial) -> nn.Sequential:
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
) -> SSD:
    """SSDlite. `reduced` halves the last stage of a MobileNetV3; `width` multiplies all channels. Made for 320 px.

    For small objects: `fine` adds a level of stride 8, `smallest` is the side of the smallest boxes as a share of the
    image's.
    """
    if not 0 < smallest < 0.95:
        raise ValueError(f"build_ssdlite: smallest {smallest}; expected a share of the image's side, 0 < share < 0.95")
    body = MobileLevels(backbone, reduced=reduced, width=width, fine=fine)
    levels = len(body.channels)
    anchors = DefaultBoxes([[2, 3]] * levels, linear_scales(levels, smallest, 0.95))
    norm = partial(BatchNorm, eps=1e-3, momentum=0.03)
    head = LevelHead(body.channels, anchors.counts, len(classes) + 1, separable=True, norm=norm)
    draw_normal(head)
    model = SSD(classes, body, head, anchors, candidates=300, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    model.score_threshold, model.iou_threshold, model.max_detections = 0.001, 0.55, 300
    return model


build_ssdlite320_mobilenet_v3_large = partial(build_ssdlite, backbone="mobilenet_v3_large")
build_ssdlite320_mobilenet_v3_small = partial(build_ssdlite, backbone="mobilenet_v3_small")
build_ssdlite320_mobilenet_v2 = partial(build_ssdlite, backbone="mobilenet_v2")
