"""SSD: default boxes of many ratios on maps of many sizes, softmax with hard negatives (arXiv:1512.02325)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.backbones import build_backbone
from vision.backbones.base import Backbone
from vision.heads.dense import PerLevelHead
from vision.layers.conv import ConvNormAct, run_on_small_map
from vision.layers.init import initialise
from vision.losses.detection import read_box_loss
from vision.losses.mining import hard_negatives
from vision.models.base import IMAGENET_MEAN, IMAGENET_STD, DenseOutputs
from vision.models.dense import DenseDetector, anchor_box_loss
from vision.ops.anchor_match import default_box_assignment
from vision.ops.assign import gather_objects
from vision.ops.coders import decode_boxes
from vision.ops.default_boxes import DefaultBoxes
from vision.ops.nms import Candidates
from vision.ops.reduce import global_mean_count
from vision.structures import ClassMap, Targets

__all__ = ["SSD", "ExtendedLevels", "VGGLevels", "build_ssd"]

CODER = (10.0, 10.0, 5.0, 5.0)


class SSD(DenseDetector):
    """Default boxes (P, 4) on the maps of `backbone`; `logits` (B, P, C + 1) are a softmax's, background last.

    `candidates` boxes of each class enter NMS. Three negatives, the hardest ones, to each positive in the class loss.
    `box_loss`: see `losses.detection`.
    """

    divisor = 1
    score_threshold = 0.01
    iou_threshold = 0.45
    max_detections = 200
    negatives = 3.0

    def __init__(
        self,
        classes: ClassMap,
        backbone: nn.Module,
        head: PerLevelHead,
        anchors: DefaultBoxes,
        *,
        candidates: int = 400,
        box_loss: str | Mapping[str, Any] = "smooth_l1",
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ):
        super().__init__(classes, mean=mean, std=std)
        self.backbone, self.head, self.anchors, self.candidates = backbone, head, anchors, candidates
        self.box_loss = read_box_loss(box_loss, offsets=True)

    def forward(self, images: Tensor, targets: Targets | None = None) -> DenseOutputs:
        images = self.prepare(images)
        levels = self.backbone(images)
        logits, deltas = self.head(levels)
        boxes, strides = self.anchors([level.shape[-2:] for level in levels], images.shape[-2:])
        return DenseOutputs(logits, deltas, boxes, strides)

    def _select(self, outputs: DenseOutputs) -> Candidates:
        """The best places of each class; the scores are softmaxes over the classes and the background."""
        scores = outputs.logits.float().softmax(-1)[..., :-1].transpose(1, 2)  # (B, C, P)
        best, place = scores.topk(min(self.candidates, scores.shape[-1]), dim=-1)  # (B, C, K)
        label = torch.arange(scores.shape[1], device=scores.device)[:, None].expand_as(place)
        return Candidates(best.flatten(1), place.flatten(1), label.flatten(1))

    def boxes_at(self, outputs: DenseOutputs, places: Tensor) -> Tensor:
        return decode_boxes(gather_objects(outputs.deltas, places), outputs.anchors[places], CODER)

    def loss(self, outputs: DenseOutputs, targets: Targets) -> dict[str, Tensor]:
        assignment = default_box_assignment(outputs.anchors, targets)
        positive = assignment.index >= 0  # (B, P)
        total = global_mean_count(positive.sum())
        truth = gather_objects(targets.boxes, assignment.index)  # (B, P, 4)
        box = anchor_box_loss(self.box_loss, outputs.deltas, outputs.anchors, truth, assignment.weight, CODER)

        background = outputs.logits.shape[-1] - 1
        labels = torch.where(positive, gather_objects(targets.labels, assignment.index), background)
        values = F.cross_entropy(outputs.logits.float().transpose(1, 2), labels, reduction="none")  # (B, P)
        background_places = assignment.index == -1  # crowds have -2
        chosen = positive | hard_negatives(values, positive, ratio=self.negatives, candidate=background_places)
        return {"class": (values * chosen).sum() / total, "box": box / total}


class ExtendedLevels(nn.Module):
    """The maps of `backbone`, and one more of each of `extras`, which reads the map before it."""

    def __init__(self, backbone: Backbone, extras: Sequence[nn.Module], channels: Sequence[int]):
        super().__init__()
        self.backbone, self.extras = backbone, nn.ModuleList(extras)
        self.channels = (*backbone.channels, *channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = self.backbone(x)
        for extra in self.extras:
            levels.append(run_on_small_map(extra, levels[-1]))
        return levels


def ssd_levels(name: str, count: int, options: Mapping[str, Any]) -> ExtendedLevels:
    """`count` levels: 3 to 5 of any backbone and then more, each of half the size, with 512, then 256 channels."""
    body = build_backbone(name, **{"levels": (3, 4, 5), **options})
    extras = count - len(body.channels)
    norm, width = options.get("norm", "batch"), options.get("width", 1.0)
    channels = [max(16, int(count * width)) for count in (512, *[256] * (extras - 1))]
    inputs = (body.channels[-1], *channels)
    blocks = [
        nn.Sequential(ConvNormAct(before, after // 2, 1, norm=norm), ConvNormAct(after // 2, after, 3, 2, norm=norm))
        for before, after in zip(inputs, channels)
    ]
    for block in blocks:
        initialise(block, "kaiming_normal")
    return ExtendedLevels(body, blocks, channels)


class VGGLevels(nn.Module):
    """VGG-16 up to conv4_3, rescaled, and on through dilated "fc6", "fc7" and `extras`: 6 levels, or 7 `high`.

    Channels 512, 1024, 512, 256, ... at `width` 1. Section 3 and figure 2 of the paper; conv4_3 is brought to norm 20
    at each place, a learnt scale a channel (arXiv:1506.04579).
    """

    def __init__(self, *, high: bool = False, options: Mapping[str, Any]):
        super().__init__()
        self.backbone: Backbone = build_backbone("vgg16", levels=(3, 4), **options)
        # as in the paper, odd maps keep their last row here: 75 -> 38
        self.backbone.features[16].ceil_mode = True
        stem = self.backbone.channels[0]
        self.scale = nn.Parameter(torch.full((stem,), 20.0))
        deep, thin = 2 * stem, stem // 4
        self.deep = nn.Sequential(
            nn.MaxPool2d(3, 1, 1),
            nn.Conv2d(stem, deep, 3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(deep, deep, 1),
            nn.ReLU(inplace=True),
        )
        # (in, middle, out, kernel, stride, padding)
        plan = [(deep, stem // 2, stem, 3, 2, 1), (stem, thin, stem // 2, 3, 2, 1)]
        plan += [(stem // 2, thin, stem // 2, 3, 2 if high else 1, 1 if high else 0)] * 2
        if high:
            plan.append((stem // 2, thin, stem // 2, 4, 1, 1))
        self.extras = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, middle, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(middle, after, kernel, stride, padding),
                nn.ReLU(inplace=True),
            )
            for before, middle, after, kernel, stride, padding in plan
        )
        for module in [*self.deep.modules(), *self.extras.modules()]:
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self.channels = (stem, deep, *(after for _, _, after, *_ in plan))

    def forward(self, x: Tensor) -> list[Tensor]:
        fine, coarse = self.backbone(x)
        levels = [self.scale.view(1, -1, 1, 1) * F.normalize(fine.float()), self.deep(coarse)]
        for extra in self.extras:
            convolution = extra[2]
            needed = convolution.kernel_size[0] - 2 * convolution.padding[0]
            height, width = levels[-1].shape[-2:]
            # a map smaller than an unpadded kernel (an image far below the intended size) is extended by zeros
            padded = F.pad(levels[-1], (0, max(0, needed - width), 0, max(0, needed - height)))
            levels.append(run_on_small_map(extra, padded))
        return levels


def build_ssd(
    classes: ClassMap,
    *,
    size: int = 300,
    backbone: str = "vgg16",
    width: float = 1.0,
    box_loss: str | Mapping[str, Any] = "smooth_l1",
    backbone_options: dict[str, Any] | None = None,
) -> SSD:
    """SSD300 or SSD512: `size` 300 or 512 chooses levels and boxes; `width` multiplies the channels.

    On VGG-16 with the paper's levels; on any other backbone with its levels 3 to 5, and smaller ones until a map of one
    or two places a side. Made for images of that size; others work too, with maps of other sizes. `box_loss` as in
    `losses.detection`.
    """
    if size not in (300, 512):
        raise ValueError(f"build_ssd: size {size}; choose 300 or 512")
    high = size == 512
    ratios = [[2], *[[2, 3]] * (4 if high else 3), [2], [2]]
    scales = (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05) if high else (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
    options = {"width": width, **(backbone_options or {})}
    if backbone == "vgg16":
        if "levels" in options:
            raise ValueError("build_ssd: levels of vgg16 are those of the paper; choose them on other backbones only")
        body: nn.Module = VGGLevels(high=high, options=options)
        strides = (8, 16, 32, 64, 128, 256, 512) if high else (8, 16, 32, 64, 100, 300)
        mean, std = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3  # Caffe's input: bytes less their mean
    else:
        body, strides = ssd_levels(backbone, len(ratios), options), None
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    anchors = DefaultBoxes(ratios, scales, strides)
    head = PerLevelHead(body.channels, anchors.counts, len(classes) + 1)
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return SSD(classes, body, head, anchors, box_loss=box_loss, mean=mean, std=std)


build_ssd300_vgg16 = partial(build_ssd, size=300)
build_ssd512_vgg16 = partial(build_ssd, size=512)
