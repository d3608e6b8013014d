"""Heads that classify and refine regions (Fast R-CNN, arXiv:1504.08083). State-dict keys are torchvision's."""

from __future__ import annotations

from torch import Tensor, nn

from vision.backbones.base import BackboneOptions, StagePlan
from vision.backbones.resnet import RESNETS, build_stage
from vision.layers.conv import ConvNormAct
from vision.layers.init import initialise
from vision.layers.norm import Norm

__all__ = ["BoxPredictor", "BoxStage", "ConvBoxHead", "ResNetBoxHead", "TwoLayerBoxHead"]


def _initialise_linear(module: nn.Module) -> None:
    """Linear layers by their inputs: counting outputs, as convolutions here do, would blow up 12544 -> 1024."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.kaiming_uniform_(part.weight, a=1)
            nn.init.zeros_(part.bias)


class TwoLayerBoxHead(nn.Module):
    """Two fully connected layers (FPN, arXiv:1612.03144): (N, channels, size, size) -> (N, width)."""

    def __init__(self, channels: int, size: int = 7, width: int = 1024):
        super().__init__()
        self.fc6 = nn.Linear(channels * size**2, width)
        self.fc7 = nn.Linear(width, width)
        self.channels = width
        _initialise_linear(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc7(self.fc6(x.flatten(1)).relu_()).relu_()


class ConvBoxHead(nn.Sequential):
    """Four convolutions and one fully connected layer (torchvision's v2, arXiv:2111.11429): -> (N, width)."""

    def __init__(self, channels: int, size: int = 7, width: int = 1024, norm: Norm = "batch", hidden: int = 256):
        convolutions = [ConvNormAct(channels if i == 0 else hidden, hidden, norm=norm) for i in range(4)]
        linear = nn.Linear(hidden * size**2, width)
        super().__init__(*convolutions, nn.Flatten(), linear, nn.ReLU(inplace=True))
        self.channels = width
        initialise(self, "kaiming_normal")
        _initialise_linear(self)


class ResNetBoxHead(nn.Module):
    """The last stage of a ResNet on each region, then the mean over places ("C4"): -> (N, channels)."""

    def __init__(self, backbone: str, norm: Norm = "batch"):
        super().__init__()
        if backbone not in RESNETS:
            raise ValueError(f"a C4 head needs a ResNet; got {backbone!r}, choose one of {', '.join(RESNETS)}")
        shape = RESNETS[backbone]
        plan = StagePlan(2, 1, 1, 32)
        self.layer4 = build_stage(
            256 * shape.expansion, 512, plan, shape, BackboneOptions(norm=norm), depth=shape.depths[3]
        )
        self.channels = 512 * shape.expansion
        initialise(self, "kaiming_normal")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(x).mean((2, 3))


class BoxPredictor(nn.Module):
    """Region features (N, channels) -> logits (N, C + 1), background last, and deltas (N, C or 1, 4)."""

    def __init__(self, channels: int, classes: int, class_agnostic: bool = False):
        super().__init__()
        self.cls_score = nn.Linear(channels, classes + 1)
        self.bbox_pred = nn.Linear(channels, (1 if class_agnostic else classes) * 4)
        # small, as in the paper: background and "stay where you are" at first
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))


class BoxStage(nn.Module):
    """A box head and its predictor: pooled regions (N, C', size, size) -> logits and deltas."""

    def __init__(self, head: nn.Module, classes: int, class_agnostic: bool = False):
        super().__init__()
        self.head = head
        self.predictor = BoxPredictor(head.channels, classes, class_agnostic)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.predictor(self.head(x))
