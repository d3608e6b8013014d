"""Models of other libraries behind our model contract, so that the same loop trains them on the same batches.

Only for measuring: `tools/acceptance.py` trains them beside ours, on the same machine, with the same budget.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.models import MODELS
from vision.models.base import SegmentOutputs, VisionModel
from vision.structures import ClassMap, Detections, Segmentation, Targets

__all__ = [
    "PeerDetector", "PeerSegmenter", "build_faster_rcnn", "build_fcn", "build_lraspp", "build_smp", "build_ssdlite",
    "register",
]  # fmt: skip


class PeerSegmenter(VisionModel):
    """A network of logits a pixel, trained with plain cross-entropy."""

    task = "semantic"
    divisor = 32

    def __init__(self, classes: ClassMap, network: nn.Module):
        super().__init__(classes)
        self.network = network

    def forward(self, images: Tensor, targets: Targets | None = None) -> SegmentOutputs:
        height, width = images.shape[-2:]
        logits = self.network(self.prepare(images))
        logits = logits["out"] if isinstance(logits, dict) else logits  # torchvision's
        return SegmentOutputs(logits[..., :height, :width].float(), [])

    def loss(self, outputs: SegmentOutputs, targets: Targets) -> dict[str, Tensor]:
        return {"cross_entropy": F.cross_entropy(outputs.logits, targets.semantic, ignore_index=255)}

    def decode(self, outputs: SegmentOutputs, sizes: Tensor, **_: Any) -> list[Segmentation]:
        found = zip(outputs.logits.softmax(1), sizes.tolist())
        return [Segmentation(score[:, :h, :w].argmax(0), score[:, :h, :w]) for score, (h, w) in found]


class PeerDetector(VisionModel):
    """A detector of torchvision, which computes its own losses and detections."""

    divisor = 1

    def __init__(self, classes: ClassMap, network: nn.Module):
        super().__init__(classes)
        self.network = network

    def forward(self, images: Tensor, targets: Targets | None = None) -> Any:
        pictures = [image.float() / 255 for image in images]
        if targets is None:
            self.network.eval()
            return self.network(pictures)
        self.network.train()
        rows = zip(targets.boxes, targets.labels, targets.valid)
        return self.network(pictures, [{"boxes": b[v], "labels": c[v] + 1} for b, c, v in rows])

    def loss(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        return outputs

    def decode(self, outputs: list[dict[str, Tensor]], sizes: Tensor, **_: Any) -> list[Detections]:
        return [Detections(found["boxes"], found["scores"], found["labels"] - 1) for found in outputs]


def build_smp(classes: ClassMap, *, architecture: str, encoder: str = "resnet18") -> PeerSegmenter:
    """A class of segmentation_models.pytorch, as "Unet", with its defaults, from scratch."""
    import segmentation_models_pytorch as smp

    return PeerSegmenter(classes, getattr(smp, architecture)(encoder, encoder_weights=None, classes=len(classes)))


def build_fcn(classes: ClassMap) -> PeerSegmenter:
    """torchvision's FCN on ResNet-50, its smallest, from scratch."""
    from torchvision.models.segmentation import fcn_resnet50

    return PeerSegmenter(classes, fcn_resnet50(weights=None, weights_backbone=None, num_classes=len(classes)))


def build_lraspp(classes: ClassMap) -> PeerSegmenter:
    """torchvision's LR-ASPP on MobileNetV3 large, from scratch."""
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(classes))
    return PeerSegmenter(classes, network)


def build_ssdlite(classes: ClassMap) -> PeerDetector:
    """torchvision's SSDlite320 on MobileNetV3, from scratch."""
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    network = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=len(classes) + 1, score_thresh=0.001, detections_per_img=100
    )
    return PeerDetector(classes, network)


def build_faster_rcnn(classes: ClassMap) -> PeerDetector:
    """torchvision's Faster R-CNN on MobileNetV3 for 320 px, from scratch; images keep the size that they come in.

    The scores below its own threshold are kept, as ours are in an evaluation.
    """
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    network = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=len(classes) + 1,
        box_score_thresh=0.001,
        _skip_resize=True,
    )
    return PeerDetector(classes, network)


def register() -> None:
    """Makes the peers known to `build_model`: peer_smp, peer_fcn, ..."""
    torch.manual_seed(0)
    for name in ("smp", "fcn", "lraspp", "ssdlite", "faster_rcnn"):
        MODELS[f"peer_{name}"] = f"peers:build_{name}"
