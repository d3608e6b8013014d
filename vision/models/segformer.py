"""SegFormer's decoder (arXiv:2105.15203, section 3.2): pointwise layers only, on any pyramid, made for transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vision.layers.norm import Norm, build_norm
from vision.layers.resize import resize
from vision.models.segmenter import DEFAULT_LOSS, Segmenter, build_features, logit_channels
from vision.structures import ClassMap

__all__ = ["PointwiseHead", "build_segformer"]


class PointwiseHead(nn.Module):
    """Each level projected to `width` channels, joined at the finest, fused and classified by 1x1 convolutions.

    Features finest first -> logits at the stride of the first. The paper projects, resizes, concatenates and fuses
    with one 1x1 convolution; as all of these are linear, each level is fused at its own size here and the results are
    resized and added up: the same function, without the large concatenated map.
    """

    def __init__(
        self, channels: Sequence[int], classes: int, *, width: int = 256, dropout: float = 0.1, norm: Norm = "batch"
    ):
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.fuse = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in channels)
        self.norm = build_norm(norm, width)
        self.activation = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        levels = [fuse(project(x)) for x, project, fuse in zip(features, self.project, self.fuse)]
        joined = levels[0]
        for level in levels[1:]:
            joined = joined + resize(level, joined.shape[-2:])
        return self.classifier(self.dropout(self.activation(self.norm(joined))))


def build_segformer(
    classes: ClassMap,
    *,
    backbone: str = "timm:pvt_v2_b0",
    width: int = 256,
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
) -> Segmenter:
    """SegFormer's decoder on levels 2 to 5 of a backbone; timm's PVT v2 is the nearest there to the paper's encoder."""
    features = build_features(backbone, (2, 3, 4, 5), in_channels, backbone_options)
    head = PointwiseHead(features.channels, logit_channels(classes, mode), width=width)
    return Segmenter(classes, features, head, loss=loss, mode=mode, in_channels=in_channels, divisor=32)
