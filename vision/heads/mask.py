"""The mask head of Mask R-CNN (arXiv:1703.06870, section 3). State-dict keys are torchvision's behind `convs`."""

from __future__ import annotations

from torch import Tensor, nn

from vision.layers.conv import ConvNormAct
from vision.layers.init import initialise
from vision.layers.norm import Norm

__all__ = ["MaskHead"]


class MaskHead(nn.Module):
    """Pooled regions (N, channels, m, m) -> mask logits (N, classes, 2m, 2m), one mask a class."""

    def __init__(self, channels: int, classes: int, norm: Norm = None, width: int = 256):
        super().__init__()
        self.convs = nn.Sequential(*(ConvNormAct(width if i else channels, width, norm=norm) for i in range(4)))
        self.conv5_mask = nn.ConvTranspose2d(width, width, 2, 2)
        self.relu = nn.ReLU(inplace=True)
        self.mask_fcn_logits = nn.Conv2d(width, classes, 1)
        initialise(self, "kaiming_normal")

    def forward(self, x: Tensor) -> Tensor:
        return self.mask_fcn_logits(self.relu(self.conv5_mask(self.convs(x))))
