"""DeepLab v1 (arXiv:1412.7062): "LargeFOV", one atrous convolution of rate 12 on features of stride 8."""

from __future__ import annotations

from typing import Any

from vision.heads.segment import LevelHead
from vision.models.deeplab_v2 import SummedAtrousHead
from vision.models.segmenter import DEFAULT_LOSS, Segmenter, build_features, logit_channels
from vision.structures import ClassMap

__all__ = ["build_deeplab_v1"]


def build_deeplab_v1(
    classes: ClassMap,
    *,
    backbone: str = "vgg16",
    output_stride: int = 8,
    rate: int = 12,
    hidden: int = 1024,
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
) -> Segmenter:
    """DeepLab-LargeFOV with `hidden` channels in "fc6" and "fc7"; the dense CRF is `ops.crf.dense_crf`.

    On VGG-16, as in the paper, the last two poolings do not stride and conv5 is dilated by 2.
    """
    features = build_features(backbone, (5,), in_channels, backbone_options, output_stride=output_stride)
    head = SummedAtrousHead(features.channels[-1], logit_channels(classes, mode), (rate,), hidden=hidden)
    return Segmenter(classes, features, LevelHead(head), loss=loss, mode=mode, in_channels=in_channels)
