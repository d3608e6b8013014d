"""The semantic branch of Panoptic FPN (arXiv:1901.02446, section 3.1 and figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vision.layers.conv import ConvNormAct
from vision.layers.resize import resize

__all__ = ["PyramidSemanticHead"]


class PyramidSemanticHead(nn.Module):
    """Maps of an existing pyramid (B, channels, h, w), each of double stride -> logits (B, classes, h, w).

    Every map takes one 3x3 convolution with group norm for each doubling up to the finest, then all are
    added up.
    """

    def __init__(self, levels: int, channels: int, classes: int, width: int = 128):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.ModuleList(
                ConvNormAct(width if step else channels, width, norm="group") for step in range(max(level, 1))
            )
            for level in range(levels)
        )
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        total = 0
        for level, (feature, branch) in enumerate(zip(features, self.branches)):
            for step, block in enumerate(branch):
                feature = resize(block(feature), features[max(level - step - 1, 0)].shape[-2:])
            total = total + feature
        return self.classifier(total)
