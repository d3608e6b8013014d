"""Detection and semantic segmentation in one model, by hard or by soft parameter sharing (survey: arXiv:1706.05098).

Hard: one backbone, read by the heads of both tasks. Soft: a backbone for each task, whose weights are pulled together
by half the squared distance between them (Duong et al., ACL 2015, P15-2139).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vision.backbones.base import Backbone
from vision.heads.dense import TowerHead
from vision.layers.resize import resize_logits
from vision.losses.compose import SegmentationLoss
from vision.models.base import DenseOutputs, SegmentOutputs, VisionModel
from vision.models.fcos import FCOS, FIRST_DISTANCE
from vision.models.segmenter import DEFAULT_LOSS, build_features, class_answers, decode_logits, label_rule, read_logits
from vision.models.semantic_fpn import SemanticPyramidHead
from vision.necks.fpn import FeaturePyramid
from vision.structures import ClassMap, Detections, Segmentation, Targets, _TensorData

__all__ = ["MultiTask", "MultiTaskOutputs", "TaskView", "build_multi_task", "distance_apart"]

TASKS = ("detection", "semantic")


@dataclass(frozen=True)
class MultiTaskOutputs(_TensorData):
    """What each head says: the dense outputs of the detector, and semantic logits (B, C, H, W) at the images' size."""

    detection: DenseOutputs
    semantic: SegmentOutputs


class MultiTask(FCOS):
    """FCOS, and a semantic head on levels 2 to 5 of the same backbone; of `semantic_backbone`, if that is given.

    `weights` of "detection" and "semantic" multiply the tasks' losses, `pull` half the squared distance between the
    two backbones. `decode` returns the detections, `decode_semantic` the maps; `views` are the tasks one by one.
    Targets need objects and a semantic map over the same classes, as panoptic data has them.
    """

    task = "panoptic"

    def __init__(
        self,
        classes: ClassMap,
        backbone: Backbone,
        neck: FeaturePyramid,
        head: TowerHead,
        semantic_head: nn.Module,
        *,
        semantic_backbone: Backbone | None = None,
        weights: Mapping[str, float] | None = None,
        pull: float = 0.0,
        loss: str | dict = DEFAULT_LOSS,
    ):
        super().__init__(classes, backbone, neck, head)
        self.semantic_head, self.semantic_backbone = semantic_head, semantic_backbone
        self.weights, self.pull = {**dict.fromkeys(TASKS, 1.0), **(weights or {})}, pull
        if set(self.weights) != set(TASKS) or min(self.weights.values()) < 0 or pull < 0:
            raise ValueError(
                f"multi_task: weights {dict(self.weights)}, pull {pull}; expected 0 or more for {' and '.join(TASKS)}"
            )
        self.criterion = SegmentationLoss(loss, len(self.classes), ignore=self.classes.ignore)
        self.epoch = 0

    def forward(self, images: Tensor, targets: Targets | None = None) -> MultiTaskOutputs:
        prepared = self.prepare(images)
        features = self.backbone(prepared)  # levels 2..5
        detection = self.read(self.neck(features[1:]), prepared.shape[-2:])
        if self.semantic_backbone is not None:
            features = self.semantic_backbone(prepared)
        logits = resize_logits(self.semantic_head(features), prepared.shape[-2:])
        height, width = images.shape[-2:]
        return MultiTaskOutputs(detection, SegmentOutputs(logits[..., :height, :width], []))

    def loss(self, outputs: MultiTaskOutputs, targets: Targets) -> dict[str, Tensor]:
        """The weighted losses of both tasks ("semantic": the sum of its terms), and "sharing", what pulls."""
        if targets.semantic is None:
            raise ValueError("loss of a multi-task model: the targets have no semantic map; read panoptic data")
        losses = {
            name: self.weights["detection"] * value for name, value in super().loss(outputs.detection, targets).items()
        }
        answers = class_answers(targets.semantic, self.classes, "multiclass")
        terms = self.criterion(outputs.semantic.logits, answers, self.epoch)
        losses["semantic"] = self.weights["semantic"] * torch.stack(list(terms.values())).sum()
        if self.semantic_backbone is not None:
            losses["sharing"] = self.pull * distance_apart(self.backbone, self.semantic_backbone)
        return losses

    def propose(self, outputs: MultiTaskOutputs, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What enters NMS of the detections, as of every dense detector; so `decode` returns those."""
        return super().propose(outputs.detection, sizes)

    def decode_semantic(
        self, outputs: MultiTaskOutputs, sizes: Tensor, *, scores: bool = False, **_: Any
    ) -> list[Segmentation]:
        """One Segmentation an image, cropped to its size; with `scores` the class probabilities too."""
        return self.decode_logits(outputs.semantic.logits, sizes, scores=scores)

    def semantic_probabilities(self, outputs: MultiTaskOutputs, size: Sequence[int]) -> Tensor:
        """The probability of each class (B, C, H, W) at every pixel of images of `size` (height, width)."""
        return read_logits(outputs.semantic.logits[..., : size[0], : size[1]], self.classes, "multiclass")

    def decode_logits(self, logits: Tensor, sizes: Tensor, *, scores: bool = False) -> list[Segmentation]:
        """As `decode_semantic`, of the semantic logits (B, C, H, W) alone."""
        rule = label_rule(self.classes, "multiclass")
        return decode_logits(logits, self.classes, "multiclass", rule, sizes, scores=scores)

    def views(self) -> list[TaskView]:
        """The model as a detector and as a segmenter, which can be evaluated like any other."""
        return [TaskView(self, task) for task in TASKS]


class TaskView(VisionModel):
    """One task of a MultiTask model, with the same weights; the semantic one returns what a Segmenter does."""

    mode = "multiclass"

    def __init__(self, model: MultiTask, task: str):
        super().__init__(model.classes)
        if task not in TASKS:
            raise ValueError(f"TaskView: task {task!r}; choose one of: {', '.join(TASKS)}")
        self.model, self.task, self.divisor, self.arguments = model, task, model.divisor, model.arguments
        if hasattr(model, "preprocess"):
            self.preprocess = model.preprocess

    def forward(self, images: Tensor, targets: Targets | None = None) -> MultiTaskOutputs | SegmentOutputs:
        outputs = self.model(images, targets)
        return outputs if self.task == "detection" else outputs.semantic

    def decode(
        self, outputs: MultiTaskOutputs | SegmentOutputs, sizes: Tensor, **options: Any
    ) -> list[Detections] | list[Segmentation]:
        if self.task == "detection":
            return self.model.decode(outputs, sizes, **options)
        return self.model.decode_logits(outputs.logits, sizes, **options)


def distance_apart(first: nn.Module, second: nn.Module) -> Tensor:
    """Half the squared distance between the parameters of two modules of one shape, a 0-dim float32 tensor."""
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return 0.5 * torch.stack([(a.float() - b.float()).square().sum() for a, b in pairs]).sum()


def build_multi_task(
    classes: ClassMap,
    *,
    backbone: str = "resnet50",
    sharing: str = "hard",
    width: int = 128,
    depth: int = 2,
    weights: Mapping[str, float] | None = None,
    pull: float = 1e-4,
    backbone_options: dict[str, Any] | None = None,
    loss: str | dict = DEFAULT_LOSS,
) -> MultiTask:
    """FCOS (`width` and `depth` of pyramid and head) and semantic FPN. `sharing` "hard": one backbone; "soft": two
    that start from the same weights and are pulled together with strength `pull`."""
    if sharing not in ("hard", "soft"):
        raise ValueError(f"multi_task: sharing {sharing!r}; choose hard or soft")
    features = build_features(backbone, (2, 3, 4, 5), 3, backbone_options)
    return MultiTask(
        classes,
        features,
        FeaturePyramid(features.channels[1:], width, extra="p6p7"),
        TowerHead(width, len(classes), depth=depth, quality=True, norm="group", bias=True, first_delta=FIRST_DISTANCE),
        SemanticPyramidHead(features.channels, len(classes), pyramid=width, width=width),
        semantic_backbone=copy.deepcopy(features) if sharing == "soft" else None,
        weights=weights,
        pull=pull,
        loss=loss,
    )
