"""CenterNet, objects as points: a heat map of centres, and size and offset at each (arXiv:1904.07850)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vision.backbones import build_backbone
from vision.backbones.base import Backbone
from vision.heads.dense import prior_bias
from vision.layers.norm import Norm
from vision.losses.boxes import smooth_l1_loss
from vision.losses.classification import heatmap_focal_loss
from vision.models.base import HeatmapOutputs, VisionModel
from vision.necks.deconv import Deconvolutions
from vision.ops.boxes import clip_boxes
from vision.ops.heatmap import draw_centres, find_peaks
from vision.ops.nms import suppress
from vision.ops.reduce import global_mean_count
from vision.structures import ClassMap, Detections, Targets

__all__ = ["CenterNet", "build_centernet"]


class CenterNet(VisionModel):
    """Maps at stride 4, or an eighth of the backbone's last: class logits, size (width, height) and offset (x, y) in
    cells. Peaks need no NMS.

    The losses are weighted 1 (heat map), 0.1 (size), 1 (offset), as in the paper.
    """

    task = "detection"
    score_threshold = 0.05
    max_detections = 100
    size_weight = 0.1

    def __init__(self, classes: ClassMap, backbone: Backbone, neck: Deconvolutions, *, width: int = 64):
        super().__init__(classes)
        self.backbone, self.neck = backbone, neck
        self.stride = backbone.strides[-1] // 8  # the neck's three steps double the map
        self.head = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Conv2d(neck.channels, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, outputs, 1)
                )
                for name, outputs in (("heatmap", len(self.classes)), ("size", 2), ("offset", 2))
            }
        )
        for name, start in (("size", 1.0), ("offset", 0.5)):
            nn.init.normal_(self.head[name][-1].weight, std=0.001)
            nn.init.constant_(self.head[name][-1].bias, start)
        nn.init.constant_(self.head["heatmap"][-1].bias, prior_bias(0.1))

    def forward(self, images: Tensor, targets: Targets | None = None) -> HeatmapOutputs:
        features = self.neck(self.backbone(self.prepare(images))[-1])
        return HeatmapOutputs(*(self.head[name](features) for name in ("heatmap", "size", "offset")))

    def loss(self, outputs: HeatmapOutputs, targets: Targets) -> dict[str, Tensor]:
        height, width = outputs.heatmap.shape[-2:]
        boxes = targets.boxes / self.stride  # (B, G, 4) in cells
        wanted = targets.single
        total = global_mean_count(wanted.sum())
        truth = draw_centres(boxes, targets.labels, wanted, len(self.classes), (height, width))
        counted = ~_covered_by_crowds(boxes, targets, (height, width)) | (truth >= 1)
        heat = heatmap_focal_loss(outputs.heatmap, truth, weight=counted, reduction="sum")

        centre = (boxes[..., :2] + boxes[..., 2:]) / 2
        column, row = centre.floor().long().unbind(-1)
        column, row = column.clamp(0, width - 1), row.clamp(0, height - 1)  # (B, G)
        cell, place = torch.stack([column, row], -1), row * width + column
        weight = wanted.unsqueeze(-1)
        sides = boxes[..., 2:] - boxes[..., :2]
        size = smooth_l1_loss(_at(outputs.size, place), sides, beta=0.0, weight=weight, reduction="sum")
        offset = smooth_l1_loss(_at(outputs.offset, place), centre - cell, beta=0.0, weight=weight, reduction="sum")
        return {"heatmap": heat / total, "size": self.size_weight * size / total, "offset": offset / total}

    def propose(
        self, outputs: HeatmapOutputs, sizes: Tensor, count: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The K best peaks: boxes (B, K, 4) clipped to `sizes`, scores (B, K), labels (B, K), with a fixed K."""
        peaks = find_peaks(outputs.heatmap.float().sigmoid(), count or self.max_detections)
        width = outputs.heatmap.shape[-1]
        corner = torch.stack([peaks.cells % width, peaks.cells // width], -1)
        centre = corner + _at(outputs.offset, peaks.cells).float()
        half = _at(outputs.size, peaks.cells).float().clamp(min=0) / 2
        boxes = torch.cat([centre - half, centre + half], -1) * self.stride
        return clip_boxes(boxes, sizes.to(boxes.device)), peaks.scores, peaks.labels

    def decode(
        self,
        outputs: HeatmapOutputs,
        sizes: Tensor,
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        class_agnostic: bool = False,
    ) -> list[Detections]:
        """As `DenseDetector.decode`; without NMS unless an `iou_threshold` is given."""
        count = self.max_detections if max_detections is None else max_detections
        boxes, scores, labels = self.propose(outputs, sizes, count)
        return suppress(
            boxes,
            scores,
            labels,
            score_threshold=self.score_threshold if score_threshold is None else score_threshold,
            iou_threshold=1.0 if iou_threshold is None else iou_threshold,
            max_detections=count,
            class_agnostic=class_agnostic,
        )


def _at(maps: Tensor, cells: Tensor) -> Tensor:
    """The values of maps (B, D, h, w) at cells (B, N) -> (B, N, D)."""
    index = cells.unsqueeze(1).expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, index).transpose(1, 2)


def _covered_by_crowds(boxes: Tensor, targets: Targets, size: tuple[int, int]) -> Tensor:
    """Whether each cell (B, 1, h, w) has its centre in a crowd; boxes (B, G, 4) in cells."""
    x = torch.arange(size[1], device=boxes.device) + 0.5
    y = torch.arange(size[0], device=boxes.device) + 0.5
    left, top, right, bottom = boxes.unsqueeze(-1).unbind(-2)  # (B, G, 1)
    across = (x > left) & (x < right) & targets.crowds.unsqueeze(-1)
    down = (y > top) & (y < bottom)
    return (down.unsqueeze(-1) & across.unsqueeze(-2)).any(1, keepdim=True)


def build_centernet(
    classes: ClassMap,
    *,
    backbone: str = "resnet18",
    deformable: bool = False,
    channels: tuple[int, ...] = (256, 128, 64),
    width: int = 64,
    norm: Norm = "batch",
    backbone_options: dict[str, Any] | None = None,
) -> CenterNet:
    """CenterNet on any backbone's last map (stride 32), `channels` of the three upsampling steps, `width` of the head.

    `deformable`: the 3x3 convolutions of the upsampling steps are deformable, as in the paper.
    """
    if len(channels) != 3:
        raise ValueError(f"build_centernet: {len(channels)} channel counts; three steps lead from stride 32 to 4")
    body = build_backbone(backbone, **{"levels": (5,), "norm": norm, **(backbone_options or {})})
    return CenterNet(classes, body, Deconvolutions(body.channels[-1], channels, deformable=deformable), width=width)


build_centernet_resnet18 = partial(build_centernet, backbone="resnet18")
build_centernet_resnet50 = partial(build_centernet, backbone="resnet50")
build_centernet_resnet101 = partial(build_centernet, backbone="resnet101")
build_centernet_mobilenet_v2 = partial(build_centernet, backbone="mobilenet_v2")
