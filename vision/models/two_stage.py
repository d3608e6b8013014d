"""The base of all two-stage detectors: proposals, then one or more stages that classify and refine them, then masks.

Batched throughout: a fixed number of proposals an image, padding marked as not valid; no loop over images before the
lists of results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vision.heads.rpn import RPNHead
from vision.losses.detection import read_box_loss
from vision.models.base import DenseOutputs, RoiOutputs, RoiStage, VisionModel
from vision.models.roi_decode import decode_masks, propose_of_stages, region_masks
from vision.models.roi_losses import mask_loss, rpn_losses, stage_losses
from vision.ops.anchors import AnchorGenerator
from vision.ops.assign import IGNORE
from vision.ops.coders import decode_boxes
from vision.ops.match import overlap_assignment
from vision.ops.nms import suppress
from vision.ops.roi import clip_to_image, pool_regions, select_proposals
from vision.ops.sample import sample_balanced
from vision.structures import ClassMap, Detections, Targets

__all__ = ["RoiParts", "RoiSettings", "TwoStageDetector"]


SMOOTH_L1 = {"name": "smooth_l1", "beta": 1 / 9}


@dataclass(frozen=True)
class RoiSettings:
    """Numbers of the two stages; the defaults are those of the papers and of torchvision.

    per_level / proposals: boxes of each level before NMS and of the image after it, when predicting; train_*: with
    targets. rpn_batch, roi_batch: sampled anchors and regions an image, rpn_fraction, roi_fraction of them positive.
    stage_ious: the overlap from which each stage calls a box positive. box_weights: of each stage's offsets.
    stage_loss_weights. rpn_box_loss, box_loss (of every stage): as in `losses.detection`. score_threshold,
    iou_threshold, max_detections: defaults of `decode`.
    """

    per_level: int = 1000
    proposals: int = 1000
    train_per_level: int = 2000
    train_proposals: int = 2000
    rpn_iou_threshold: float = 0.7
    rpn_score_threshold: float = 0.0
    rpn_batch: int = 256
    rpn_fraction: float = 0.5
    roi_batch: int = 512
    roi_fraction: float = 0.25
    stage_ious: tuple[float, ...] = (0.5,)
    box_weights: tuple[tuple[float, float, float, float], ...] = ((10.0, 10.0, 5.0, 5.0),)
    stage_loss_weights: tuple[float, ...] = (1.0,)
    rpn_box_loss: str | Mapping[str, Any] = field(default_factory=SMOOTH_L1.copy)
    box_loss: str | Mapping[str, Any] = field(default_factory=SMOOTH_L1.copy)
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    max_detections: int = 100

    def __post_init__(self) -> None:
        for name in ("per_level", "proposals", "train_per_level", "train_proposals", "rpn_batch", "roi_batch",
                     "max_detections"):  # fmt: skip
            self._check(name, lambda n: isinstance(n, int) and n >= 1, "a whole number, 1 or more")
        for name in ("rpn_iou_threshold", "rpn_score_threshold", "rpn_fraction", "roi_fraction", "score_threshold",
                     "iou_threshold"):  # fmt: skip
            self._check(name, lambda share: 0 <= share <= 1, "a number from 0 to 1")
        self._check("stage_ious", lambda ious: all(0 <= iou <= 1 for iou in ious), "numbers from 0 to 1")
        self._check("stage_loss_weights", lambda weights: min(weights) >= 0, "numbers, 0 or more")
        self._check("box_weights", lambda stages: all(len(one) == 4 and min(one) > 0 for one in stages),
                    "four numbers above 0 for each stage")  # fmt: skip
        if not len(self.stage_ious) == len(self.box_weights) == len(self.stage_loss_weights) > 0:
            raise ValueError(
                "RoiSettings: give stage_ious, box_weights and stage_loss_weights one entry for each stage"
            )

    def _check(self, name: str, fits: Callable[[Any], bool], expected: str) -> None:
        value = getattr(self, name)
        try:
            good = fits(value)
        except (TypeError, ValueError):  # of another kind, or empty
            good = False
        if not good:
            raise ValueError(f"RoiSettings: {name} {value!r}; expected {expected}")


@dataclass(frozen=True)
class RoiParts:
    """The modules that a two-stage detector is put together from.

    `rpn` None: proposals are given, or the `anchors` themselves serve as such. `roi_strides` are the strides of the
    first maps of the neck, those that regions are read from, `pool_size` cells on each side; masks from twice as many.
    """

    backbone: nn.Module
    neck: nn.Module
    stages: Sequence[nn.Module]
    roi_strides: tuple[int, ...]
    rpn: RPNHead | None = None
    anchors: AnchorGenerator | None = None
    pool_size: int = 7
    mask_head: nn.Module | None = None


class TwoStageDetector(VisionModel):
    """Faster, Mask and Cascade R-CNN, by the parts and settings they are given.

    `generator`: where the samples of anchors and regions come from; None: PyTorch's own. With targets, `forward`
    returns the sampled regions rather than the best proposals. `forward` also takes `proposals` (B, K, 4) and `valid`
    (B, K) in place of the RPN's (Fast R-CNN).
    """

    divisor = 32

    def __init__(self, classes: ClassMap, parts: RoiParts, settings: RoiSettings):
        super().__init__(classes)
        if len(parts.stages) != len(settings.stage_ious):
            raise ValueError(f"TwoStageDetector: {len(parts.stages)} stages, settings for {len(settings.stage_ious)}")
        self.backbone, self.neck, self.rpn, self.anchors = parts.backbone, parts.neck, parts.rpn, parts.anchors
        self.stages, self.mask_head = nn.ModuleList(parts.stages), parts.mask_head
        self.roi_strides, self.pool_size = tuple(parts.roi_strides), parts.pool_size
        self.settings = settings
        self.rpn_box_loss = read_box_loss(settings.rpn_box_loss, offsets=True, key="rpn_box_loss")
        self.box_loss = read_box_loss(settings.box_loss, offsets=True)
        self.task = "detection" if parts.mask_head is None else "instance"
        self.generator: torch.Generator | None = None

    def forward(
        self,
        images: Tensor,
        targets: Targets | None = None,
        proposals: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> RoiOutputs:
        size = images.shape[-2:]
        prepared = self.prepare(images)
        features = self.neck(self.backbone(prepared))
        rpn = None
        if proposals is None:
            rpn, proposals, valid = self._propose(features, prepared.shape[-2:], size, targets is not None)
        elif valid is None:
            valid = torch.ones(proposals.shape[:2], dtype=torch.bool, device=proposals.device)
        index = None
        if targets is not None:
            proposals, index = self._sample(proposals, valid, targets)
            valid = index != IGNORE
        features = list(features[: len(self.roi_strides)])
        stages = self._refine(features, proposals, valid, index, targets, size)
        masks = None
        if self.mask_head is not None and targets is not None:
            count = max(1, int(self.settings.roi_fraction * proposals.shape[1]))  # positives come first
            masks = self.mask_head(self._pool(features, proposals[:, :count], 2 * self.pool_size))
            masks = masks.unflatten(0, (len(images), -1))  # (B, M, C, m, m)
        return RoiOutputs(rpn, stages, features, masks)

    def _propose(
        self, features: Sequence[Tensor], padded: tuple[int, int], size: tuple[int, int], sampling: bool
    ) -> tuple[DenseOutputs | None, Tensor, Tensor]:
        """The RPN's outputs, its best boxes (B, K, 4) clipped to `size`, and which of them are valid (B, K).

        Without an RPN: windows."""
        settings = self.settings
        count = settings.train_proposals if sampling else settings.proposals
        if self.rpn is None:
            return None, *self._windows(len(features[0]), size, count)
        logits, deltas = self.rpn(features)
        grids = [tuple(feature.shape[-2:]) for feature in features]
        anchors, strides = self.anchors(grids, padded)
        counts = [h * w * n for (h, w), n in zip(grids, self.anchors.counts)]
        chosen = select_proposals(
            logits.squeeze(-1),
            decode_boxes(deltas.detach(), anchors),
            counts,
            size,
            per_level=settings.train_per_level if sampling else settings.per_level,
            count=count,
            iou_threshold=settings.rpn_iou_threshold,
            score_threshold=settings.rpn_score_threshold,
        )
        return DenseOutputs(logits, deltas, anchors, strides), chosen.boxes, chosen.valid

    def _windows(self, batch: int, size: tuple[int, int], count: int) -> tuple[Tensor, Tensor]:
        """At most `count` windows (B, K, 4) clipped to `size`, evenly taken from those at every place, all valid."""
        grids = [(-(-size[0] // step), -(-size[1] // step)) for step in self.anchors.strides]
        boxes = clip_to_image(self.anchors(grids, size)[0], size)
        places = torch.linspace(0, len(boxes) - 1, min(count, len(boxes)), device=boxes.device).long()
        boxes = boxes[places].expand(batch, -1, 4)
        return boxes, torch.ones_like(boxes[..., 0], dtype=torch.bool)

    def _sample(self, proposals: Tensor, valid: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Sampled regions (B, N, 4), positives first, and the row of the object of each (B, N); -2 in empty slots."""
        proposals = torch.cat([proposals, targets.boxes], 1)  # the objects themselves, so that positives never lack
        valid = torch.cat([valid, targets.single], 1)
        iou = self.settings.stage_ious[0]
        index = overlap_assignment(proposals, targets, low=iou, high=iou, valid=valid).index
        sample = sample_balanced(
            index >= 0, index == -1, self.settings.roi_batch, self.settings.roi_fraction, self.generator
        )
        boxes = proposals.gather(1, sample.places.unsqueeze(-1).expand(-1, -1, 4))
        return boxes, index.gather(1, sample.places).masked_fill(~sample.valid, IGNORE)

    def _refine(
        self,
        features: list[Tensor],
        boxes: Tensor,
        valid: Tensor,
        index: Tensor | None,
        targets: Targets | None,
        size: tuple[int, int],
    ) -> list[RoiStage]:
        """Every stage on the boxes that the one before it left."""
        stages: list[RoiStage] = []
        for i, stage in enumerate(self.stages):
            if stages:
                last = stages[-1]
                deltas = last.deltas[:, :, 0].detach()
                boxes = clip_to_image(decode_boxes(deltas, boxes, self.settings.box_weights[i - 1]), size)
                if targets is not None:
                    iou = self.settings.stage_ious[i]
                    index = overlap_assignment(boxes, targets, low=iou, high=iou, valid=valid).index
            logits, deltas = stage(self._pool(features, boxes, self.pool_size))
            batch = (boxes.shape[0], -1)
            stages.append(RoiStage(boxes, valid, logits.unflatten(0, batch), deltas.unflatten(0, batch), index))
        return stages

    def _pool(self, features: Sequence[Tensor], boxes: Tensor, size: int) -> Tensor:
        """Pooled regions (B * K, C, size, size) of boxes (B, K, 4)."""
        images = torch.arange(boxes.shape[0], device=boxes.device).repeat_interleave(boxes.shape[1])
        return pool_regions(features, boxes.flatten(0, 1), images, self.roi_strides, size)

    def loss(self, outputs: RoiOutputs, targets: Targets) -> dict[str, Tensor]:
        """rpn_objectness, rpn_box, and for each stage class and box (numbered from the second on), and mask."""
        losses = {}
        if outputs.rpn is not None:
            settings = self.settings
            sampling = settings.rpn_batch, settings.rpn_fraction, self.generator
            losses = rpn_losses(outputs.rpn, targets, self.rpn_box_loss, *sampling)
        for i, stage in enumerate(outputs.stages):
            weight, suffix = self.settings.stage_loss_weights[i], str(i + 1) if i else ""
            for name, value in stage_losses(stage, targets, self.box_loss, self.settings.box_weights[i]).items():
                losses[name + suffix] = weight * value
        if outputs.mask_logits is not None:
            losses["mask"] = mask_loss(outputs.mask_logits, outputs.stages[0], targets)
        return losses

    def propose(self, outputs: RoiOutputs, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What enters NMS: boxes (B, K, 4) clipped to `sizes`, scores (B, K), labels (B, K), with a fixed K. Of outputs
        made without targets."""
        return propose_of_stages(outputs.stages, sizes, self.settings.box_weights[-1])

    def masks_at(self, outputs: RoiOutputs, boxes: Tensor, labels: Tensor) -> Tensor:
        """Mask probabilities (B, N, m, m) within boxes (B, N, 4) of the classes `labels` (B, N)."""
        images = torch.arange(len(boxes), device=boxes.device).repeat_interleave(boxes.shape[1])
        flat = boxes.flatten(0, 1), labels.flatten(), images
        masks = region_masks(outputs.features, *flat, self.roi_strides, 2 * self.pool_size, self.mask_head)
        return masks.unflatten(0, boxes.shape[:2])

    def decode(
        self,
        outputs: RoiOutputs,
        sizes: Tensor,
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        class_agnostic: bool = False,
    ) -> list[Detections]:
        """One `Detections` an image, by falling score, inside the images of `sizes` (B, 2), with masks if it has them.

        Of outputs made without targets. Keeps at most `max_detections` boxes that score more than `score_threshold`;
        of two of a class (of any if `class_agnostic`) that overlap by more than `iou_threshold` only the better one.
        """
        settings = self.settings
        found = suppress(
            *self.propose(outputs, sizes),
            score_threshold=max(settings.score_threshold if score_threshold is None else score_threshold, 0.0),
            iou_threshold=settings.iou_threshold if iou_threshold is None else iou_threshold,
            max_detections=settings.max_detections if max_detections is None else max_detections,
            class_agnostic=class_agnostic,
        )
        if self.mask_head is None:
            return found
        return decode_masks(found, outputs.features, self.roi_strides, 2 * self.pool_size, self.mask_head, sizes)
