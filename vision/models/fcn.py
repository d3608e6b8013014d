"""Fully convolutional networks (arXiv:1411.4038): FCN-32s / 16s / 8s, and torchvision's FCN on a dilated backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vision.heads.segment import FCNHead, LevelHead, auxiliary_heads
from vision.layers.conv import run_on_small_map
from vision.layers.resize import resize
from vision.models.segmenter import DEFAULT_LOSS, Segmenter, build_features, logit_channels
from vision.structures import ClassMap

__all__ = ["SkipHead", "build_fcn", "build_fcn_8s", "build_fcn_16s", "build_fcn_32s"]


class SkipHead(nn.Module):
    """Class scores of each level added up, deepest to finest: features finest first -> logits at the finest stride.

    The deepest level first goes through the paper's convolutionalised fully connected layers, 7x7 and 1x1 of `hidden`
    channels with dropout, if `hidden` is not 0. Bilinear upsampling is fixed, which the paper finds as good as learnt.
    """

    def __init__(self, channels: Sequence[int], classes: int, *, hidden: int = 0, dropout: float = 0.5):
        super().__init__()
        deepest = channels[-1]
        self.hidden = nn.Identity()
        if hidden:
            self.hidden = nn.Sequential(
                *(nn.Conv2d(deepest, hidden, 7, padding=3), nn.ReLU(inplace=True), nn.Dropout(dropout)),
                *(nn.Conv2d(hidden, hidden, 1), nn.ReLU(inplace=True), nn.Dropout(dropout)),
            )
        widths = [*channels[:-1], hidden or deepest]
        self.scores = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in widths)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        logits = self.scores[-1](run_on_small_map(self.hidden, features[-1], kernel=7))
        for feature, score in zip(features[-2::-1], self.scores[-2::-1] if len(self.scores) > 1 else ()):
            logits = resize(logits, feature.shape[-2:]) + score(feature)
        return logits


def _build_skip_network(
    classes: ClassMap,
    levels: tuple[int, ...],
    backbone: str,
    hidden: int,
    backbone_options: dict[str, Any] | None,
    in_channels: int,
    loss: str | dict,
    mode: str,
) -> Segmenter:
    features = build_features(backbone, levels, in_channels, backbone_options)
    head = SkipHead(features.channels, logit_channels(classes, mode), hidden=hidden)
    return Segmenter(classes, features, head, loss=loss, mode=mode, in_channels=in_channels)


def build_fcn_32s(
    classes: ClassMap,
    *,
    backbone: str = "vgg16",
    hidden: int = 4096,
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
) -> Segmenter:
    """FCN-32s: scores at stride 32. `hidden`: channels of the paper's two "fully connected" layers (0: none)."""
    return _build_skip_network(classes, (5,), backbone, hidden, backbone_options, in_channels, loss, mode)


def build_fcn_16s(
    classes: ClassMap,
    *,
    backbone: str = "vgg16",
    hidden: int = 4096,
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
) -> Segmenter:
    """FCN-16s: scores at stride 16. `hidden`: channels of the paper's two "fully connected" layers (0: none)."""
    return _build_skip_network(classes, (4, 5), backbone, hidden, backbone_options, in_channels, loss, mode)


def build_fcn_8s(
    classes: ClassMap,
    *,
    backbone: str = "vgg16",
    hidden: int = 4096,
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
) -> Segmenter:
    """FCN-8s: scores at stride 8. `hidden`: channels of the paper's two "fully connected" layers (0: none)."""
    return _build_skip_network(classes, (3, 4, 5), backbone, hidden, backbone_options, in_channels, loss, mode)


def build_fcn(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    output_stride: int = 8,
    auxiliary: float = 0.0,
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
) -> Segmenter:
    """torchvision's FCN: a head on the deepest level; `auxiliary`: weight of one on the level before it (0: none)."""
    features = build_features(backbone, (4, 5), in_channels, backbone_options, output_stride=output_stride)
    count = logit_channels(classes, mode)
    return Segmenter(
        classes,
        features,
        LevelHead(FCNHead(features.channels[-1], count)),
        auxiliary=auxiliary_heads(auxiliary, features.channels, count),
        auxiliary_weight=auxiliary,
        loss=loss,
        mode=mode,
        in_channels=in_channels,
    )
