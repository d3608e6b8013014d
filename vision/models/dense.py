"""The base of all dense detectors: one decode for all, from the class scores and boxes of every place; and what the
losses of several of them share."""

from __future__ import annotations

import torch
from torch import Tensor

from vision.losses.detection import DetectionLoss
from vision.models.base import DenseOutputs, VisionModel
from vision.ops.assign import Assignment, gather_objects
from vision.ops.boxes import clip_boxes, paired_iou
from vision.ops.coders import decode_boxes, encode_boxes
from vision.ops.nms import Candidates, best_pairs, gather_places, suppress
from vision.ops.tracing import is_exporting
from vision.structures import Detections, Targets

__all__ = ["DenseDetector", "anchor_box_loss", "class_score_loss"]


def class_score_loss(
    loss: DetectionLoss,
    logits: Tensor,
    targets: Targets,
    assignment: Assignment,
    boxes: Tensor | None,
    weight: Tensor | float = 1.0,
) -> Tensor:
    """The summed `loss` of logits (B, P, C), each place times `weight` (B, P or 1); places that crowds cover count not.

    A positive's score should be, in its object's class: the IoU of its box of `boxes` (B, P, 4) with the object, held
    constant, where the loss learns it (otherwise `boxes` may be None); 1 for "focal", whose paper knows only yes and
    no; else the weight that the assignment gives.
    """
    with torch.no_grad():
        if loss.learns_overlap:
            overlap = paired_iou(boxes.float(), gather_objects(targets.boxes, assignment.index))
            score = torch.where(assignment.index >= 0, overlap, 0.0)
        else:
            score = (assignment.index >= 0).float() if loss.name == "focal" else assignment.weight
        labels = gather_objects(targets.labels, assignment.index).clamp(min=0)  # (B, P)
        wanted = torch.zeros_like(logits, dtype=torch.float32)
        wanted.scatter_(-1, labels.unsqueeze(-1), score.unsqueeze(-1))
    counted = (assignment.index >= -1) * weight
    return loss(logits, wanted, counted.unsqueeze(-1))


def anchor_box_loss(
    loss: DetectionLoss,
    deltas: Tensor,
    anchors: Tensor,
    truth: Tensor,
    weight: Tensor,
    coder: tuple[float, ...] = (1.0,) * 4,
) -> Tensor:
    """The summed `loss` of boxes, given as `deltas` (B, P, 4) from `anchors` (P, 4), with `truth` (B, P, 4) xyxy, times
    `weight` (B, P); on the deltas themselves or on what they decode to, as the loss has it."""
    deltas = deltas.float()
    if loss.on_offsets:
        return loss(deltas, encode_boxes(truth, anchors, coder), weight.unsqueeze(-1))
    # a place without an object is compared with its own anchor: the padding's box would make 0 times infinity
    truth = torch.where(weight.unsqueeze(-1) > 0, truth, anchors)
    return loss(decode_boxes(deltas, anchors, coder), truth, weight)


class DenseDetector(VisionModel):
    """A detector that scores every place of its pyramid; a subclass says what its outputs mean.

    It implements `boxes_at`, the decoded boxes of some places, and `scores`, where these are not the logits' sigmoids.
    `candidates` is how many (place, class) pairs enter NMS, of the whole image, or of each level where
    `candidates_per_level`. `None` for an argument of `decode` means the model's own default, an attribute of the same
    name.
    """

    task = "detection"
    candidates: int = 1000
    candidates_per_level: bool = False
    score_threshold: float = 0.05
    iou_threshold: float = 0.65
    max_detections: int = 100

    def scores(self, logits: Tensor, quality: Tensor | None = None) -> Tensor:
        """Class scores (..., C) in [0, 1], float32, of places with logits (..., C) and quality (...).

        Each rises with its own logit and hangs on no other: the best class of a place is that of its largest logit.
        """
        return logits.float().sigmoid()

    def boxes_at(self, outputs: DenseOutputs, places: Tensor) -> Tensor:
        """Boxes (B, K, 4) xyxy in input pixels, not clipped, of the places (B, K) int64."""
        raise NotImplementedError

    def decode(
        self,
        outputs: DenseOutputs,
        sizes: Tensor,
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        class_agnostic: bool = False,
    ) -> list[Detections]:
        """One `Detections` an image, by falling score, inside the images of `sizes` (B, 2) height, width.

        Keeps at most `max_detections` boxes that score more than `score_threshold`; of two boxes of a class (of any
        class if `class_agnostic`) that overlap by more than `iou_threshold` only the better one.
        """
        boxes, scores, labels = self.propose(outputs, sizes)
        return suppress(
            boxes,
            scores,
            labels,
            score_threshold=self.score_threshold if score_threshold is None else score_threshold,
            iou_threshold=self.iou_threshold if iou_threshold is None else iou_threshold,
            max_detections=self.max_detections if max_detections is None else max_detections,
            class_agnostic=class_agnostic,
        )

    def propose(self, outputs: DenseOutputs, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What enters NMS: boxes (B, K, 4) clipped to `sizes`, scores (B, K), labels (B, K), with a fixed K."""
        best = self._select(outputs)
        boxes = self.boxes_at(outputs, best.places)
        return clip_boxes(boxes, sizes.to(boxes.device)), best.scores, best.labels

    def _select(self, outputs: DenseOutputs) -> Candidates:
        """The best (place, class) pairs; only the places of the best single scores are scored in all classes."""
        highest = self.scores(outputs.logits.amax(-1, keepdim=True), outputs.quality).squeeze(-1)  # (B, P)
        levels = [self._best_of(outputs, *level) for level in self._levels(highest, outputs.strides)]
        return Candidates(*(torch.cat(values, 1) for values in zip(*levels)))

    def _levels(self, highest: Tensor, strides: Tensor) -> list[tuple[Tensor, int]]:
        """The highest scores of each level and its first place; of all places as one without `candidates_per_level`."""
        if not self.candidates_per_level:
            return [(highest, 0)]
        if is_exporting():
            # how many places a level has is not known there: those of the other levels are masked
            level = torch.cat([strides.new_zeros(1), (strides.diff() != 0).to(strides.dtype)]).cumsum(0)
            return [(highest.masked_fill(level != i, -1.0), 0) for i in range(len(self.neck.channels))]
        counts = torch.unique_consecutive(strides, return_counts=True)[1].tolist()
        return [(part, sum(counts[:i])) for i, part in enumerate(highest.split(counts, dim=1))]

    def _best_of(self, outputs: DenseOutputs, highest: Tensor, first: int) -> Candidates:
        best, places = highest.topk(min(self.candidates, highest.shape[1]), dim=1)
        places = places + first
        quality = None if outputs.quality is None else outputs.quality.gather(1, places)
        scores = self.scores(gather_places(outputs.logits, places), quality)
        if is_exporting():
            scores = scores.masked_fill((best < 0).unsqueeze(-1), -1.0)  # places of other levels
        return best_pairs(scores, places, self.candidates)
