"""Panoptic FPN (arXiv:1901.02446): Mask R-CNN and a semantic branch that share one backbone and one pyramid."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vision.heads.panoptic import PyramidSemanticHead
from vision.layers.resize import resize_logits
from vision.losses.compose import SegmentationLoss
from vision.models.base import RoiOutputs
from vision.models.faster_rcnn import pyramid_parts, read_settings, with_masks
from vision.models.segmenter import class_answers, label_rule, read_logits
from vision.models.two_stage import RoiParts, RoiSettings, TwoStageDetector
from vision.ops.panoptic import PanopticPixels, merge_panoptic
from vision.structures import ClassMap, Detections, Segmentation, Targets

__all__ = ["PanopticFPN", "build_panoptic_fpn"]


class PanopticFPN(TwoStageDetector):
    """A two-stage detector with masks and a semantic head over all classes.

    `decode` returns the instances; `decode_panoptic` joins them with the stuff (`ClassMap.things` says which classes
    are which). The semantic map of the targets names the class of every pixel, things and stuff alike.
    `semantic_loss` is a sum of segmentation losses by name (`losses.compose`), times `semantic_weight`.
    """

    def __init__(
        self,
        classes: ClassMap,
        parts: RoiParts,
        settings: RoiSettings,
        semantic_head: nn.Module,
        semantic_weight: float,
        semantic_loss: str | Mapping[str, Any] = "cross_entropy",
    ):
        super().__init__(classes, parts, settings)
        self.task = "panoptic"
        self.semantic_head = semantic_head
        self.semantic_weight = semantic_weight
        self.criterion = SegmentationLoss(semantic_loss, len(self.classes), ignore=self.classes.ignore)
        self.epoch = 0  # set by whoever trains; losses with a schedule read it

    def forward(
        self,
        images: Tensor,
        targets: Targets | None = None,
        proposals: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> RoiOutputs:
        outputs = super().forward(images, targets, proposals, valid)
        return dataclasses.replace(outputs, semantic=self.semantic_head(outputs.features))

    def loss(self, outputs: RoiOutputs, targets: Targets) -> dict[str, Tensor]:
        """Those of Mask R-CNN and semantic: the loss of the pixels that are not to be ignored, the sum of its terms."""
        losses = super().loss(outputs, targets)
        if targets.semantic is None:
            raise ValueError("loss of a panoptic model: the targets have no semantic map; read the data with it")
        logits = self._full_size(outputs.semantic, targets.semantic.shape[-2:])
        terms = self.criterion(logits, class_answers(targets.semantic, self.classes, "multiclass"), self.epoch)
        losses["semantic"] = self.semantic_weight * torch.stack(list(terms.values())).sum()
        return losses

    def _full_size(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Logits (B, C, h, w) at the resolution of the input, without the padding behind `size`."""
        stride = self.roi_strides[0]
        logits = resize_logits(logits, (logits.shape[-2] * stride, logits.shape[-1] * stride))
        return logits[..., : size[0], : size[1]]

    def semantic_probabilities(self, outputs: RoiOutputs, size: Sequence[int]) -> Tensor:
        """The probability of each class (B, C, H, W) at every pixel of images of `size` (height, width)."""
        return read_logits(self._full_size(outputs.semantic, size), self.classes, "multiclass")

    @torch.no_grad()
    def decode_semantic(self, outputs: RoiOutputs, sizes: Tensor) -> list[Segmentation]:
        """The class of each pixel, things and stuff alike, of each image of `sizes` (B, 2), with its scores."""
        results, rule = [], label_rule(self.classes, "multiclass")
        for logits, size in zip(outputs.semantic, sizes.tolist()):  # a batch of them at full size would take gigabytes
            scores = read_logits(self._full_size(logits[None], size), self.classes, "multiclass")[0]
            results.append(Segmentation(rule.labels(scores), scores, rule))
        return results

    @torch.no_grad()
    def decode_panoptic(
        self, outputs: RoiOutputs, sizes: Tensor, *, score_threshold: float = 0.5, smallest_stuff: int = 4096
    ) -> list[PanopticPixels]:
        """Labels and instances of every pixel of each image of `sizes` (B, 2), by the paper's rules."""
        found: list[Detections] = self.decode(outputs, sizes, score_threshold=score_threshold)
        things = torch.tensor(self.classes.things, device=outputs.semantic.device)
        return [
            merge_panoptic(
                detections, semantic.labels, things, score_threshold=score_threshold, smallest_stuff=smallest_stuff
            )
            for detections, semantic in zip(found, self.decode_semantic(outputs, sizes))
        ]


def build_panoptic_fpn(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    recipe: str = "v1",
    width: int = 256,
    hidden: int = 1024,
    smallest_anchor: int = 32,
    semantic_weight: float = 0.5,
    semantic_loss: str | Mapping[str, Any] = "cross_entropy",
    settings: Mapping[str, Any] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
) -> PanopticFPN:
    """Panoptic FPN on any backbone with levels 2 to 5; `semantic_loss` as in `losses.compose`."""
    parts = pyramid_parts(len(classes), backbone, recipe, width, hidden, backbone_options, smallest_anchor)
    parts = with_masks(parts, len(classes), recipe, width)
    semantic = PyramidSemanticHead(len(parts.roi_strides), width, len(classes), width=max(32, width // 2))
    return PanopticFPN(classes, parts, read_settings(settings), semantic, semantic_weight, semantic_loss)
