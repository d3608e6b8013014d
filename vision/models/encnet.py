"""Context encoding (EncNet, arXiv:1803.08151): which classes an image holds steers what its pixels are taken for."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.heads.segment import auxiliary_heads
from vision.layers.conv import ConvNormAct
from vision.layers.encoding import Encoding
from vision.layers.norm import Norm
from vision.losses.classification import binary_cross_entropy
from vision.models.base import SegmentOutputs
from vision.models.segmenter import DEFAULT_LOSS, Segmenter, build_features, class_answers, logit_channels
from vision.structures import ClassMap, Targets

__all__ = ["EncNet", "EncodingHead", "build_encnet", "present_classes"]


class EncodingHead(nn.Module):
    """Channels of the deepest map scaled by a gate computed from its encoding; and the classes that the image holds.

    List of features -> [logits (B, classes, h, w), presence logits (B, classes, 1, 1)].
    """

    def __init__(self, in_channels: int, classes: int, *, width: int = 512, codes: int = 32, norm: Norm = "batch"):
        super().__init__()
        self.reduce = ConvNormAct(in_channels, width, 3, norm=norm)
        self.project = ConvNormAct(width, width, 1, norm=norm)
        self.encoding = Encoding(width, codes)
        self.code_norm = nn.BatchNorm1d(codes)
        self.gate = nn.Linear(width, width)
        self.presence = nn.Linear(width, classes)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        x = self.reduce(features[-1])
        code = F.relu(self.code_norm(self.encoding(self.project(x)))).mean(1)  # (B, width)
        x = F.relu(x * (1 + torch.sigmoid(self.gate(code))[..., None, None]))
        return [self.classifier(self.dropout(x)), self.presence(code)[..., None, None]]


class EncNet(Segmenter):
    """A Segmenter whose first auxiliary logits (B, classes, 1, 1) say whether each class occurs in the image at all."""

    presence_weight = 0.2

    def loss(self, outputs: SegmentOutputs, targets: Targets) -> dict[str, Tensor]:
        """The Segmenter's terms and "presence", the paper's semantic encoding loss (section 3.2), over the images
        of which a pixel is known."""
        presence, *auxiliary = outputs.auxiliary
        losses = super().loss(SegmentOutputs(outputs.logits, auxiliary), targets)
        labels = targets.semantic
        if self.mode != "multilabel" or len(self.classes) == 1:
            labels = class_answers(labels, self.classes, self.mode)
        truth, known = present_classes(labels, presence.shape[1], self.classes.ignore)
        weight = known.float()
        terms = binary_cross_entropy(presence[..., 0, 0], truth, weight=weight, normaliser=weight.sum().clamp(min=1))
        losses["presence"] = self.presence_weight * terms
        return losses


def present_classes(labels: Tensor, classes: int, ignore: int = 255) -> tuple[Tensor, Tensor]:
    """(B, classes) float32, 1 where any pixel has the class; and (B, classes) bool, where any pixel is known at all.

    labels (B, H, W) of 0..classes-1 and `ignore`, with one class of 0, 1 and `ignore`; or masks (B, classes, H, W).
    """
    if labels.ndim == 3 and classes == 1:
        labels = labels[:, None]
    if labels.ndim == 4:
        return (labels == 1).flatten(2).any(2).float(), (labels != ignore).flatten(2).any(2)
    flat = labels.flatten(1)
    inside = (flat >= 0) & (flat < classes)
    counts = torch.zeros(len(flat), classes + 1, device=labels.device)
    truth = (counts.scatter(1, torch.where(inside, flat, classes), 1.0))[:, :classes]
    return truth, (flat != ignore).any(1, keepdim=True).expand_as(truth)


def build_encnet(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    output_stride: int = 8,
    width: int = 512,
    auxiliary: float = 0.0,
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
) -> EncNet:
    """EncNet on a dilated backbone; `auxiliary`: weight of an FCN head on level 4 (0: none; the paper: 0.2)."""
    features = build_features(backbone, (4, 5), in_channels, backbone_options, output_stride=output_stride)
    count = logit_channels(classes, mode)
    head = EncodingHead(features.channels[-1], count, width=width)
    return EncNet(
        classes,
        features,
        head,
        auxiliary=auxiliary_heads(auxiliary, features.channels, count),
        auxiliary_weight=auxiliary,
        loss=loss,
        mode=mode,
        in_channels=in_channels,
    )
