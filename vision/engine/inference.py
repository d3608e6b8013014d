"""Images in, results in the pixels of those images out: what evaluation and prediction share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vision.data.resize import Placement, Preprocess, restore_detections, restore_segmentation
from vision.engine.device import DTYPES, autocast, choose_device, choose_precision
from vision.layers.fold import fold_batch_norms, store_weights
from vision.layers.fuse import can_fuse, fuse_convolutions
from vision.models import VisionModel
from vision.ops.crf import dense_crf
from vision.structures import Detections, Geometry, Segmentation

__all__ = ["Inference", "JointInference", "check_channels", "preprocess_of", "ready_model", "stack_images"]


def preprocess_of(model: VisionModel) -> Preprocess:
    """How the images of `model` are prepared: as in its training, which its checkpoint carries; else at 640 pixels
    (detection), or in full resolution (semantic segmentation)."""
    known = getattr(model, "preprocess", None)
    return known or Preprocess((640, 640), "keep" if model.task == "semantic" else "letterbox")


def check_channels(model: VisionModel) -> None:
    """ValueError unless images as they are read, RGB, serve `model`: it has 3 channels, or 1 and is semantic (grey)."""
    channels = model.mean.shape[1]
    if channels != 3 and not (channels == 1 and model.task == "semantic"):
        raise ValueError(
            f"a {model.task} model of {channels} channels; images are read as RGB: expected in_channels 3, or 1 (grey) "
            "of a semantic model; for others call the model itself with tensors of yours"
        )


def stack_images(images: Sequence[np.ndarray], pad: int) -> Tensor:
    """Images uint8 (H, W, 3) of several sizes as one batch (B, 3, H, W), filled on the right and bottom with `pad`."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    batch = np.full((len(images), height, width, 3), pad, np.uint8)
    for row, image in zip(batch, images):
        row[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(batch).permute(0, 3, 1, 2)  # channels_last in memory


def ready_model(
    model: VisionModel, device: torch.device, precision: str, *, fold: bool = True, fuse: bool = True
) -> VisionModel:
    """A copy of `model` for inference under `autocast(device, precision)`: in evaluation mode, on `device` in
    channels_last, batch norms folded into convolutions (`fold`), sums and activations computed by the convolutions
    before them where the device can (`fuse`; exporters cannot), weights kept in the precision that they are used in.
    """
    ready = fold_batch_norms(model) if fold else copy.deepcopy(model).eval()
    if fuse and can_fuse(device, DTYPES[precision]):
        fuse_convolutions(ready)
    ready = ready.requires_grad_(False).to(device, memory_format=torch.channels_last)
    if precision != "fp32":
        store_weights(ready, DTYPES[precision])
    return ready


class Inference:
    """A model made ready for inference, with its options; called with prepared images or with plain ones.

    The model itself is not touched: what runs is a copy (`ready_model`). `options` go to `decode`.

    Of segmentation models: `tile` cuts images into overlapping squares of that side. They are resized by the factor
    that training used, not to its size (`Preprocess.for_tiles`), and stay on the host with the sums: the device holds
    one tile. `tta` averages over flips and scales; `crf` refines the borders at the source's resolution by a dense CRF
    with DeepLab v2's parameters. `scores` keeps the probabilities of all classes at that resolution beside the labels.
    """

    def __init__(
        self,
        model: VisionModel,
        *,
        device: str = "auto",
        precision: str = "auto",
        fold: bool = True,
        tile: int | None = None,
        tta: bool = False,
        crf: bool = False,
        scores: bool = True,
        **options: Any,
    ):
        if (tile or tta or crf) and model.task != "semantic":
            raise ValueError(f"tile, tta and crf are for semantic segmentation; this model's task is {model.task!r}")
        check_channels(model)
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.classes, self.task, self.preprocess = model.classes, model.task, preprocess_of(model)
        self.multilabel = model.reads == "multilabel"
        self.model = ready_model(model, self.device, self.precision, fold=fold)
        if tile:
            self.preprocess = self.preprocess.for_tiles()
        self.tile, self.tta, self.crf, self.scores = tile, tta, crf, scores
        self.options = {name: value for name, value in options.items() if value is not None}

    def prepare(self, image: np.ndarray) -> tuple[np.ndarray, Placement]:
        """One image RGB uint8 (H, W, 3) as the network takes it, and where it lies in there."""
        prepared, placement, _ = self.preprocess.apply(image, tight=True)
        return prepared, placement

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections] | list[Segmentation]:
        """The results for images RGB uint8 (H, W, 3), in the pixels of each."""
        prepared = [self.prepare(image) for image in images]
        batch = stack_images([image for image, _ in prepared], self.preprocess.pad)
        return self.run(batch, [placement for _, placement in prepared], images)

    @torch.inference_mode()
    def run(
        self, images: Tensor, placements: Sequence[Placement], sources: Sequence[np.ndarray] = ()
    ) -> list[Detections] | list[Segmentation]:
        """The results for prepared images (B, 3, H, W), restored to the source that each placement describes.

        `sources`: the images RGB uint8 (H, W, 3) that these were made of; `crf` alone needs them.
        """
        geometry = Geometry(
            torch.tensor([placement.scale for placement in placements]),
            torch.tensor([placement.offset for placement in placements]),
            torch.tensor([placement.source for placement in placements]),
        )
        if not self.tile:
            images = images.to(self.device, non_blocking=True)
        sizes = torch.tensor([placement.size for placement in placements], device=images.device)
        if self.task == "semantic":
            found = self._segment(images, sizes)
            if self.crf:
                pairs = zip(found, sources, strict=True)
                return [self._refined(restore_segmentation(one, geometry, i), s) for i, (one, s) in enumerate(pairs)]
            return [restore_segmentation(one, geometry, i, scores=self.scores) for i, one in enumerate(found)]
        with autocast(self.device, self.precision):
            outputs = self.model(images)
        return self._decode(outputs, sizes, geometry)

    def _decode(self, outputs: Any, sizes: Tensor, geometry: Geometry) -> list[Any]:
        found = self.model.decode(outputs, sizes, **self.options)
        return [restore_detections(one, geometry, i) for i, one in enumerate(found)]

    def _segment(self, images: Tensor, sizes: Tensor) -> list[Segmentation]:
        with autocast(self.device, self.precision):
            if self.tile:
                from vision.engine.tiled import predict_tiled

                outputs = predict_tiled(self.model, images, self.tile, tta=self.tta)
            elif self.tta:
                from vision.engine.tta import predict_augmented

                outputs = predict_augmented(self.model, images)
            else:
                outputs = self.model(images)
        return self.model.decode(outputs, sizes, scores=True, **self.options)

    def _refined(self, found: Segmentation, image: np.ndarray) -> Segmentation:
        """`found` after the dense CRF, by the colours of its image RGB uint8 (H, W, 3)."""
        if found.scores is None or len(found.scores) < 2 or found.rule.overlapping:
            raise ValueError("crf: it needs the probabilities of two or more classes, of which each pixel has one")
        colours = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).to(found.scores.device)
        scores = dense_crf(found.scores, colours)
        return Segmentation(found.rule.labels(scores), scores if self.scores else None, found.rule)


class JointInference(Inference):
    """Inference of a model of several tasks: the detections and the class map of each image, from one forward pass."""

    def _decode(self, outputs: Any, sizes: Tensor, geometry: Geometry) -> list[tuple[Detections, Segmentation]]:
        found = super()._decode(outputs, sizes, geometry)
        maps = self.model.decode_semantic(outputs, sizes, scores=True)
        return [(one, restore_segmentation(pixels, geometry, i, scores=False))
                for i, (one, pixels) in enumerate(zip(found, maps))]  # fmt: skip
