"""The semantic branch of Panoptic FPN (arXiv:1901.02446, section 3): a feature pyramid summed at stride 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vision.layers.conv import ConvNormAct
from vision.layers.resize import resize
from vision.models.segmenter import DEFAULT_LOSS, Segmenter, build_features, logit_channels
from vision.structures import ClassMap

__all__ = ["SemanticPyramidHead", "build_semantic_fpn"]


class SemanticPyramidHead(nn.Module):
    """Levels 2 to 5 -> logits at the stride of level 2.

    Top-down sums of `pyramid` channels without smoothing convolutions; each level then takes one 3x3 convolution with
    group norm to `width` channels for every doubling up to the finest level, and all are added up.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        pyramid: int = 256,
        width: int = 128,
        dropout: float = 0.2,
        align_corners: bool = False,
    ):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, pyramid, 1) for count in channels)
        self.branches = nn.ModuleList(
            nn.ModuleList(
                ConvNormAct(pyramid if step == 0 else width, width, 3, norm="group")
                for step in range(max(doublings, 1))
            )
            for doublings in range(len(channels))
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)
        self.align_corners = align_corners

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        sizes = [feature.shape[-2:] for feature in features]
        total, deeper = None, None
        for level in reversed(range(len(features))):
            x = self.lateral[level](features[level])
            deeper = x if deeper is None else x + resize(deeper, sizes[level], "nearest")
            x = deeper
            for step, block in enumerate(self.branches[level]):
                size = sizes[max(level - step - 1, 0)]
                x = resize(block(x), size, align_corners=self.align_corners)
            total = x if total is None else total + x
        return self.classifier(self.dropout(total))


def build_semantic_fpn(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    pyramid: int = 256,
    width: int = 128,
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
    align_corners: bool = False,
) -> Segmenter:
    """Semantic FPN on levels 2 to 5 of any backbone; `align_corners` as in segmentation_models.pytorch's FPN."""
    features = build_features(backbone, (2, 3, 4, 5), in_channels, backbone_options)
    head = SemanticPyramidHead(
        features.channels, logit_channels(classes, mode), pyramid=pyramid, width=width, align_corners=align_corners
    )
    return Segmenter(
        classes, features, head, loss=loss, mode=mode, in_channels=in_channels, align_corners=align_corners
    )
