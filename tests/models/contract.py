"""What the tests of the model contract share: the models by promise, a batch for each, and what has to hold."""

import copy
import functools

import pytest
import torch
from small_models import SMALL, small_model
from torch.utils import _pytree as pytree

from vision.models import MODELS, TrainStep
from vision.structures import Detections, Segmentation, Targets

__all__ = ["built", "check_decoded", "check_losses", "leaves", "models", "pictures", "targets_of", "train_losses"]

# what only some models do not keep, each with its reason
EXCEPTIONS: dict[tuple[str, str], str] = {}
# modules whose models are of the family of another module's
KIN = {"vision.models.mask_rcnn", "vision.models.cascade_rcnn", "vision.models.panoptic_fpn"}


def models(promise, representative=False):
    """All models; where `representative` only one of each family by default, the others marked slow."""
    seen, params = set(KIN), []
    for name in SMALL:
        family = MODELS.get(name, ":").split(":")[0]
        marks = [pytest.mark.slow] if representative and family in seen else []
        if (promise, name) in EXCEPTIONS:
            marks.append(pytest.mark.skip(reason=EXCEPTIONS[promise, name]))
        seen.add(family)
        params.append(pytest.param(name, marks=marks))
    return pytest.mark.parametrize("name", params)


@functools.lru_cache(maxsize=2)
def _built(name, classes):
    return small_model(name, classes)


def built(name, classes=3):
    """A fresh copy of the small model, in evaluation mode, channels_last."""
    return copy.deepcopy(_built(name, classes)).eval().to(memory_format=torch.channels_last)


def pictures(batch=2, height=64, width=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


def targets_of(images, classes=3, objects=(2, 0), crowd=False):
    """Targets of a batch: `objects` boxes in each image, masks and a semantic map with some of it to ignore."""
    batch, height, width = len(images), *images.shape[-2:]
    rows = max(1, *objects)
    base = torch.tensor([[4.0, 6, 44, 50], [20, 10, 60, 40], [2, 2, 12, 12]])[torch.arange(rows) % 3]
    boxes = base.expand(batch, rows, 4) * torch.tensor([width, height, width, height]) / 64
    valid = torch.arange(rows) < torch.tensor(objects)[:, None]
    labels = torch.where(valid, torch.arange(rows) % classes, -1)
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    flat = boxes[valid]
    masks = ((x > flat[:, :1]) & (x < flat[:, 2:3]))[:, None] & ((y > flat[:, 1:2]) & (y < flat[:, 3:]))[..., None]
    start = torch.tensor([0, *objects[:-1]]).cumsum(0)
    semantic = torch.zeros(batch, height, width, dtype=torch.int64)
    if any(objects):
        semantic[:, height // 2 :, : width // 2] = min(1, classes - 1)
    semantic[:, :4] = 255
    crowds = valid & (torch.arange(rows) == 1) if crowd else torch.zeros_like(valid)
    return Targets(boxes * valid[..., None], labels, valid, crowds, masks, start, semantic)


def train_losses(model, images, targets):
    losses = TrainStep(model.train())(images, targets)
    sum(losses.values()).backward()
    return losses


def check_losses(model, losses):
    assert losses
    for name, value in losses.items():
        assert value.ndim == 0, name
        assert value.dtype == torch.float32, name
        assert value.isfinite(), name
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} has no gradient"
            assert parameter.grad.isfinite().all(), f"{name} has a gradient that is not finite"


def leaves(outputs):
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def check_decoded(model, results, sizes):
    assert len(results) == len(sizes)
    for result, (height, width) in zip(results, sizes.tolist()):
        if isinstance(result, Segmentation):
            assert result.labels.shape == (height, width)
            assert result.labels.dtype == torch.int64
            known = (result.labels >= 0) & (result.labels < len(model.classes))
            # a pixel has one of several classes; the only class, or none
            assert (known | ((result.labels == model.classes.ignore) & (len(model.classes) == 1))).all()
            continue
        assert isinstance(result, Detections)
        count = len(result)
        assert result.boxes.shape == (count, 4)
        assert result.scores.shape == result.labels.shape == (count,)
        assert (result.boxes >= 0).all()
        assert (result.boxes <= torch.tensor([width, height, width, height])).all()
        assert (result.boxes[:, 2:] >= result.boxes[:, :2]).all()
        assert ((result.scores >= 0) & (result.scores <= 1)).all()
        assert (result.scores.diff() <= 0).all()
        assert ((result.labels >= 0) & (result.labels < len(model.classes))).all()
        if result.masks is not None:
            assert result.masks.shape == (count, height, width)
