"""The base of all semantic segmentation models: backbone, optional neck, head, auxiliary heads, loss, decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vision.backbones import Backbone, build_backbone
from vision.layers.resize import resize
from vision.losses.compose import SegmentationLoss
from vision.models.base import IMAGENET_MEAN, IMAGENET_STD, SegmentOutputs, VisionModel
from vision.structures import ClassMap, Segmentation, Targets

__all__ = ["DEFAULT_LOSS", "MODES", "Segmenter", "build_features", "logit_channels"]

MODES = ("multiclass", "binary", "multilabel")
DEFAULT_LOSS = "ce+dice"


def logit_channels(classes: ClassMap, mode: str) -> int:
    """How many logits a pixel has in `mode`: one a class, or one alone in "binary" mode. ValueError when they disagree.

    "binary" tells label 1 from label 0 by one logit, be they two classes or the absence and presence of one; so does
    every mode when there is a single class.
    """
    if mode not in MODES:
        raise ValueError(f"segmentation mode {mode!r} is not known; choose one of: {', '.join(MODES)}")
    if mode == "binary" and len(classes) > 2:
        raise ValueError(f'mode "binary" is for one or two classes, not {len(classes)}; use "multiclass"')
    return 1 if mode == "binary" else len(classes)


def build_features(
    backbone: str, levels: Sequence[int], in_channels: int, options: Mapping[str, Any] | None = None, **defaults: Any
) -> Backbone:
    """A segmenter's backbone: `levels` and `defaults`, on top of them the `options` that its user gave.

    Both are fields of `backbones.BackboneOptions`; `taps` among the options stand in for the levels.
    """
    chosen = {"in_channels": in_channels, **defaults, **(options or {})}
    if not chosen.get("taps"):
        chosen.setdefault("levels", tuple(levels))
    return build_backbone(backbone, **chosen)


class Segmenter(VisionModel):
    """A pyramid of features from `backbone`, through `neck` (list -> list) if given, into `head` (list -> logits).

    The logits, at any stride, are resized to the images' own size. `auxiliary` heads read the backbone's features and
    are learnt with weight `auxiliary_weight`; a head that returns a list gives its main logits first and auxiliary
    ones after them (deep supervision).

    `align_corners` says how logits are resized (segmentation_models.pytorch aligns corners, others do not).
    Targets are `semantic` (B, H, W) with 255 ignored; in "multilabel" mode (B, C, H, W) of 0, 1 and 255.
    """

    task = "semantic"

    def __init__(
        self,
        classes: ClassMap | Sequence[str] | int,
        backbone: nn.Module,
        head: nn.Module,
        *,
        neck: nn.Module | None = None,
        auxiliary: Sequence[nn.Module] = (),
        auxiliary_weight: float = 0.4,
        loss: str | dict = DEFAULT_LOSS,
        mode: str = "multiclass",
        in_channels: int = 3,
        divisor: int = 1,
        align_corners: bool = False,
    ):
        super().__init__(classes, **_normalisation(in_channels))
        self.backbone, self.neck, self.head = backbone, neck, head
        self.auxiliary = nn.ModuleList(auxiliary)
        self.auxiliary_weight = auxiliary_weight
        self.mode = mode
        self.criterion = SegmentationLoss(loss, logit_channels(self.classes, mode))
        self.epoch = 0  # set by whoever trains; losses with a schedule read it
        self.divisor = divisor
        self.align_corners = align_corners

    def forward(self, images: Tensor, targets: Targets | None = None) -> SegmentOutputs:
        prepared = self.prepare(images)
        features = self.backbone(prepared)
        auxiliary = [head(features) for head in self.auxiliary]
        logits = self.head(features if self.neck is None else self.neck(features))
        if not isinstance(logits, Tensor):
            logits, auxiliary = logits[0], [*logits[1:], *auxiliary]
        logits = resize(logits.float(), prepared.shape[-2:], align_corners=self.align_corners)
        height, width = images.shape[-2:]
        return SegmentOutputs(logits[..., :height, :width], auxiliary)

    def loss(self, outputs: SegmentOutputs, targets: Targets) -> dict[str, Tensor]:
        """The weighted terms of the loss on the full-size logits, and "auxiliary", the sum over the auxiliary heads.

        Auxiliary logits are compared with the labels at their own size (nearest pixel): their purpose is a gradient
        deep in the network, not fine borders.
        """
        if targets.semantic is None:
            raise ValueError(f"{type(self).__name__}.loss: targets without semantic maps; read the data with them")
        losses = self.criterion(outputs.logits, targets.semantic, self.epoch)
        if outputs.auxiliary:
            deep = [self._auxiliary_loss(logits, targets.semantic) for logits in outputs.auxiliary]
            losses["auxiliary"] = self.auxiliary_weight * torch.stack(deep).sum()
        return losses

    def _auxiliary_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        labels = nearest_labels(labels, logits.shape[-2:])
        return torch.stack(list(self.criterion(logits, labels, self.epoch).values())).sum()

    def decode(
        self,
        outputs: SegmentOutputs,
        sizes: Tensor | None = None,
        *,
        scores: bool = False,
        score_threshold: float = 0.5,
        **_: object,
    ) -> list[Segmentation]:
        """One Segmentation an image, cropped to its height and width in `sizes` (B, 2) (None: not cropped).

        With `scores` (always in "multilabel" mode) the class probabilities come too. One logit a pixel ("binary", or a
        single class): label 1 where its probability exceeds the threshold, else 0. Multi-label: the label of the most
        probable class, 255 where none exceeds the threshold.
        """
        labels, probability = self._read(outputs.logits, score_threshold, scores or self.mode == "multilabel")
        frames = [tuple(labels.shape[-2:])] * len(labels) if sizes is None else sizes.tolist()
        return [
            Segmentation(
                labels[i, :height, :width], None if probability is None else probability[i, :, :height, :width]
            )
            for i, (height, width) in enumerate(frames)
        ]

    def _read(self, logits: Tensor, threshold: float, scores: bool) -> tuple[Tensor, Tensor | None]:
        """Labels (B, H, W) and, when `scores`, the probability of every class (B, C, H, W)."""
        if self.mode == "multilabel":
            probability = logits.sigmoid()
            best, labels = probability.max(1)
            return torch.where(best > threshold, labels, 255), probability
        if logits.shape[1] > 1:
            return logits.argmax(1), logits.softmax(1) if scores else None
        probability = logits.sigmoid()
        labels = (probability[:, 0] > threshold).long()
        if len(self.classes) == 2:
            probability = torch.cat([1 - probability, probability], dim=1)
        return labels, probability if scores else None


def nearest_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """`labels` (..., H, W) at height and width `size`, each the label at the centre of the pixel that it stands for."""
    rows, columns = (
        ((torch.arange(new, device=labels.device) * 2 + 1) * old) // (2 * new)
        for new, old in zip(size[-2:], labels.shape[-2:])
    )
    return labels[..., rows[:, None], columns]


def _normalisation(in_channels: int) -> dict[str, tuple[float, ...]]:
    """ImageNet's statistics for three channels; their average for every channel of anything else."""
    if in_channels == 3:
        return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return {"mean": (sum(IMAGENET_MEAN) / 3,) * in_channels, "std": (sum(IMAGENET_STD) / 3,) * in_channels}
