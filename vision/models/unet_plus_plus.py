"""U-Net++ (arXiv:1807.10165): nested U-Nets of every depth with dense skip connections and deep supervision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vision.layers.norm import Norm
from vision.layers.resize import resize
from vision.models.segmenter import DEFAULT_LOSS, Segmenter, logit_channels
from vision.models.unet import DoubleConv, UNetEncoder, build_pyramid
from vision.structures import ClassMap

__all__ = ["NestedDecoder", "build_unet_plus_plus"]


class NestedDecoder(nn.Module):
    """Node (i, j) joins all nodes (i, 0..j-1) of its row with the doubled node (i + 1, j - 1) below (section 3.1).

    Encoder maps finest first -> logits of the deepest nested U-Net; with `deep_supervision` a list, followed by those
    of the shallower ones, all at the stride of the finest map.
    """

    def __init__(self, channels: Sequence[int], classes: int, *, deep_supervision: bool = True, norm: Norm = "batch"):
        super().__init__()
        self.depth = len(channels) - 1
        self.nodes = nn.ModuleDict()
        for j in range(1, self.depth + 1):
            for i in range(self.depth - j + 1):
                self.nodes[f"{i}_{j}"] = DoubleConv(channels[i] * j + channels[i + 1], channels[i], norm=norm)
        count = self.depth if deep_supervision else 1
        self.classifiers = nn.ModuleList(nn.Conv2d(channels[0], classes, 1) for _ in range(count))

    def forward(self, features: Sequence[Tensor]) -> Tensor | list[Tensor]:
        rows = [[feature] for feature in features]
        for j in range(1, self.depth + 1):
            for i in range(self.depth - j + 1):
                below = resize(rows[i + 1][j - 1], features[i].shape[-2:], "nearest")
                rows[i].append(self.nodes[f"{i}_{j}"](torch.cat([*rows[i], below], dim=1)))
        logits = [classifier(node) for classifier, node in zip(self.classifiers, reversed(rows[0]))]
        return logits if len(logits) > 1 else logits[0]


def build_unet_plus_plus(
    classes: ClassMap,
    *,
    backbone: str = "unet",
    width: int = 32,
    depth: int = 4,
    deep_supervision: bool = True,
    norm: Norm = "batch",
    backbone_options: dict[str, Any] | None = None,
    in_channels: int = 3,
    loss: str | dict = DEFAULT_LOSS,
    mode: str = "multiclass",
) -> Segmenter:
    """U-Net++. `backbone` "unet" is the paper's encoder of `width` and `depth`; any other name is a backbone's, whose
    levels 1 to 5 (of timm: all levels that it has) are nested."""
    if backbone == "unet":
        encoder = UNetEncoder(in_channels, width, depth, norm=norm)
    else:
        encoder = build_pyramid(backbone, in_channels, backbone_options, norm=norm)
    decoder = NestedDecoder(
        encoder.channels, logit_channels(classes, mode), deep_supervision=deep_supervision, norm=norm
    )
    divisor = 2**depth if backbone == "unet" else 1
    return Segmenter(classes, encoder, decoder, loss=loss, mode=mode, in_channels=in_channels, divisor=divisor)
