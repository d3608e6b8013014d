"""The base of all semantic segmentation models: backbone, optional neck, head, auxiliary heads, loss, decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vision.backbones import Backbone, build_backbone
from vision.layers.resize import resize_logits
from vision.losses.compose import SegmentationLoss
from vision.models.base import IMAGENET_MEAN, IMAGENET_STD, SegmentOutputs, VisionModel
from vision.structures import ClassMap, LabelRule, Segmentation, Targets

__all__ = [
    "DEFAULT_LOSS",
    "MODES",
    "Segmenter",
    "build_features",
    "class_answers",
    "decode_logits",
    "label_rule",
    "logit_channels",
    "read_logits",
]

MODES = ("multiclass", "binary", "multilabel")
DEFAULT_LOSS = "ce+dice"
GREY = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as OpenCV reads a colour image as grey


def logit_channels(classes: ClassMap, mode: str) -> int:
    """How many logits a pixel has in `mode`: one a class, or one alone in "binary" mode. ValueError when they disagree.

    The one logit is of label 1 where there are two classes, of the class where there is only one.
    """
    if mode not in MODES:
        raise ValueError(f"segmentation mode {mode!r} is not known; choose one of: {', '.join(MODES)}")
    if mode == "binary" and len(classes) > 2:
        raise ValueError(f'mode "binary" is for one or two classes, not {len(classes)}; use "multiclass"')
    return 1 if mode == "binary" else len(classes)


def label_rule(classes: ClassMap, mode: str, threshold: float = 0.5) -> LabelRule:
    """How labels follow from the class probabilities of `mode`: for predictions of any resolution, on any path."""
    if mode == "multilabel" or len(classes) == 1:
        return LabelRule(threshold, none=classes.ignore)
    return LabelRule(threshold, none=0, first=1) if mode == "binary" else LabelRule(none=classes.ignore)


def read_logits(logits: Tensor, classes: ClassMap, mode: str) -> Tensor:
    """The probability of every class (B, len(classes), H, W), in the dtype of logits (B, C, H, W)."""
    if mode == "multiclass" and len(classes) > 1:
        return logits.softmax(1)
    probability = logits.sigmoid()
    return torch.cat([1 - probability, probability], dim=1) if logits.shape[1] < len(classes) else probability


def class_answers(labels: Tensor, classes: ClassMap, mode: str) -> Tensor:
    """What losses compare the logits of `mode` with, of an index map (B, H, W); masks (B, C, H, W) stay as they are.

    One class: (B, H, W), 1 where its label 0 is, else 0. Multi-label: (B, C, H, W), 1 where the label is, else 0, and
    `classes.ignore` in every mask where the label is. Else the index map itself.
    """
    if labels.ndim == 4:
        return labels
    if len(classes) == 1:
        return (labels == 0).long()
    if mode != "multilabel":
        return labels
    numbers = torch.arange(len(classes), device=labels.device).view(-1, 1, 1)
    masks = (labels[:, None] == numbers).long()  # (B, C, H, W)
    return masks.where((labels != classes.ignore)[:, None], classes.ignore)


def build_features(
    backbone: str,
    levels: Sequence[int] | None,
    in_channels: int,
    options: Mapping[str, Any] | None = None,
    **defaults: Any,
) -> Backbone:
    """A segmenter's backbone: `levels` and `defaults`, on top of them the `options` that its user gave.

    Both are fields of `backbones.BackboneOptions`; levels None are all that there are; `taps` among the options stand
    in for the levels.
    """
    chosen = {"in_channels": in_channels, **defaults, **(options or {})}
    if levels is not None and not chosen.get("taps"):
        chosen.setdefault("levels", tuple(levels))
    return build_backbone(backbone, **chosen)


class Segmenter(VisionModel):
    """A pyramid of features from `backbone`, through `neck` (list -> list) if given, into `head` (list -> logits).

    The logits, at any stride, are resized to the images' own size. `auxiliary` heads read the backbone's features and
    are learnt with weight `auxiliary_weight`; a head that returns a list gives its main logits first and auxiliary
    ones after them (deep supervision).

    `align_corners` says how logits are resized (segmentation_models.pytorch aligns corners, others do not).
    Targets are `semantic` (B, H, W) with `classes.ignore` (255; -1 with more than 255 classes) for pixels that do not
    count; in "multilabel" mode also masks (B, C, H, W) of 0, 1 and `classes.ignore`.

    A single class is told from its absence, in every mode: label 0 is the class, `classes.ignore` what is not, in
    targets as in results, so that labels are places in `classes` as everywhere. No pixel of an index map is left out of
    the loss then; unknown pixels need two classes (and "binary" mode), or masks.

    `in_channels`: 3; 1 reads images of three channels as grey, so that all data sets serve. Other counts are for
    tensors of one's own: files are read as RGB, so `vision train`, `Inference` and `predict` do not serve them.
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
        self.criterion = SegmentationLoss(loss, logit_channels(self.classes, mode), ignore=self.classes.ignore)
        self.epoch = 0  # set by whoever trains; losses with a schedule read it
        self.divisor = max(divisor, getattr(backbone, "divisor", 1))
        self.align_corners = align_corners

    @property
    def reads(self) -> str:
        """As of every model; "multilabel" models take instance masks, which may overlap, where there are no maps."""
        return "multilabel" if self.mode == "multilabel" else self.task

    def prepare(self, images: Tensor) -> Tensor:
        """As of every model; RGB images become grey where the model has one channel."""
        if self.mean.shape[1] == 1 and images.ndim == 4 and images.shape[1] == 3:
            images = grey_images(images)
        return super().prepare(images)

    def forward(self, images: Tensor, targets: Targets | None = None) -> SegmentOutputs:
        prepared = self.prepare(images)
        features = self.backbone(prepared)
        auxiliary = [head(features) for head in self.auxiliary]
        logits = self.head(features if self.neck is None else self.neck(features))
        if not isinstance(logits, Tensor):
            logits, auxiliary = logits[0], [*logits[1:], *auxiliary]
        logits = resize_logits(logits, prepared.shape[-2:], align_corners=self.align_corners)
        height, width = images.shape[-2:]
        return SegmentOutputs(logits[..., :height, :width], auxiliary)

    def loss(self, outputs: SegmentOutputs, targets: Targets) -> dict[str, Tensor]:
        """The weighted terms of the loss on the full-size logits, and "auxiliary", the sum over the auxiliary heads.

        Auxiliary logits are compared with the labels at their own size (nearest pixel): their purpose is a gradient
        deep in the network, not fine borders.
        """
        if targets.semantic is None:
            raise ValueError(f"{type(self).__name__}.loss: targets without semantic maps; read the data with them")
        losses = self._terms(outputs.logits, targets.semantic)
        if outputs.auxiliary:
            deep = [self._auxiliary_loss(logits, targets.semantic) for logits in outputs.auxiliary]
            losses["auxiliary"] = self.auxiliary_weight * torch.stack(deep).sum()
        return losses

    def _terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return self.criterion(logits, class_answers(labels, self.classes, self.mode), self.epoch)

    def _auxiliary_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        labels = nearest_labels(labels, logits.shape[-2:])
        return torch.stack(list(self._terms(logits, labels).values())).sum()

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

        With `scores` (always in "multilabel" mode) the class probabilities come too. The label is the likeliest class;
        in "binary" mode 1 where its probability exceeds the threshold, else 0; of a single class and in "multilabel"
        mode the likeliest one that exceeds the threshold, `classes.ignore` where none does.
        """
        rule = label_rule(self.classes, self.mode, score_threshold)
        return decode_logits(
            outputs.logits, self.classes, self.mode, rule, sizes, scores=scores or self.mode == "multilabel"
        )


def decode_logits(
    logits: Tensor, classes: ClassMap, mode: str, rule: LabelRule, sizes: Tensor | None, *, scores: bool
) -> list[Segmentation]:
    """One Segmentation an image of logits (B, C, H, W) by `rule`, cropped to `sizes` (B, 2) where they are given."""
    frames = [tuple(logits.shape[-2:])] * len(logits) if sizes is None else sizes.tolist()
    found = []
    for image, (height, width) in zip(logits, frames):
        image = image[:, :height, :width]
        # the likeliest class is that of the largest logit: no probabilities are needed to find it
        needed = scores or rule.threshold is not None
        probability = read_logits(image[None], classes, mode)[0] if needed else image
        found.append(Segmentation(rule.labels(probability), probability if scores else None, rule))
    return found


def grey_images(images: Tensor) -> Tensor:
    """Grey images (B, 1, H, W) in [0, 1] of RGB images (B, 3, H, W), uint8 or floating point in [0, 1]."""
    weights = torch.tensor(GREY, device=images.device).view(1, 3, 1, 1)
    if images.dtype == torch.uint8:
        weights = weights / 255
    return (images * weights).sum(1, keepdim=True)


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
