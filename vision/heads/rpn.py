"""The head of a region proposal network (arXiv:1506.01497, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vision.heads.dense import flatten_levels
from vision.layers.conv import ConvNormAct

__all__ = ["RPNHead"]


class RPNHead(nn.Module):
    """Maps (B, channels, h, w) of all levels -> logits (B, P, 1) and deltas (B, P, 4) of `anchors` boxes a place.

    `depth` 3x3 convolutions (1; torchvision's v2 has 2) shared by the levels. State-dict keys are torchvision's.
    """

    def __init__(self, channels: int, anchors: int, depth: int = 1):
        super().__init__()
        self.conv = nn.Sequential(*(ConvNormAct(channels, channels, norm=None) for _ in range(depth)))
        self.cls_logits = nn.Conv2d(channels, anchors, 1)
        self.bbox_pred = nn.Conv2d(channels, anchors * 4, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        hidden = [self.conv(feature) for feature in features]
        logits = flatten_levels([self.cls_logits(x) for x in hidden], 1)
        return logits, flatten_levels([self.bbox_pred(x) for x in hidden], 4)
