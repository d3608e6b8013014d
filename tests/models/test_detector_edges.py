"""Objects at the edge of what occurs, for each family: huge, one pixel, hundreds, crowds, a grey picture."""

import pytest
import torch
from small_models import DISTINCT, small_model

from vision.models import build_model
from vision.structures import Targets

FAMILIES = [name for name in DISTINCT if small_model(name).task != "semantic"]


def model_of(name):
    return small_model(name).eval()


def targets_of(boxes, crowd=None, size=(64, 64)):
    """Targets of one image of `size`, every object's mask filling its box."""
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(1, -1, 4)
    labels = torch.arange(boxes.shape[1])[None] % 3
    crowd = torch.zeros_like(labels, dtype=torch.bool) if crowd is None else torch.tensor([crowd])
    x, y = torch.arange(size[1]) + 0.5, torch.arange(size[0]) + 0.5
    left, top, right, bottom = boxes[0].unsqueeze(-1).unbind(1)  # (N, 1)
    masks = ((y > top) & (y < bottom)).unsqueeze(-1) & ((x > left) & (x < right)).unsqueeze(-2)
    start, semantic = torch.zeros(1, dtype=torch.int64), torch.zeros(1, *size, dtype=torch.int64)
    return Targets(boxes, labels, torch.ones_like(crowd), crowd, masks, start, semantic)


def box_loss(losses):
    return losses["size" if "size" in losses else "box"]


def finite_losses(model, images, targets):
    losses = model.loss(model(images, targets), targets)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    return losses


@pytest.mark.parametrize("name", FAMILIES)
def test_object_as_large_as_the_image(name):
    losses = finite_losses(model_of(name), torch.rand(1, 3, 64, 96), targets_of([[0, 0, 96, 64]], size=(64, 96)))
    assert box_loss(losses) > 0  # something answers for it


@pytest.mark.parametrize("name", FAMILIES)
def test_objects_of_one_pixel_and_of_no_area(name):
    boxes = [[5, 5, 6, 6], [30, 40, 31, 41], [63, 63, 64, 64], [10, 10, 10, 20], [0, 0, 0, 0]]
    finite_losses(model_of(name), torch.rand(1, 3, 64, 64), targets_of(boxes))


@pytest.mark.parametrize("name", FAMILIES)
def test_five_hundred_objects(name):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(500, 2, generator=generator) * 80
    boxes = torch.cat([corner, corner + 2 + torch.rand(500, 2, generator=generator) * 14], 1)
    finite_losses(model_of(name), torch.rand(1, 3, 96, 96), targets_of(boxes, size=(96, 96)))


@pytest.mark.parametrize("name", FAMILIES)
def test_crowds_are_neither_objects_nor_background(name):
    model = model_of(name)
    images = torch.rand(1, 3, 64, 64)
    everything = targets_of([[-500, -500, 600, 600]], crowd=[True])
    outputs = model(images, everything)
    scored = scores_of(outputs)
    for logits in scored:
        logits.retain_grad()
    losses = model.loss(outputs, everything)
    losses.pop("semantic", None)  # of panoptic models: pixels, not objects
    sum(losses.values()).backward()
    assert all(logits.grad is None or logits.grad.abs().sum() == 0 for logits in scored)
    # beside a crowd over the left half, an object on the right still counts
    both = targets_of([[0, 0, 32, 64], [36, 8, 60, 56]], crowd=[True, False])
    assert box_loss(model.loss(model(images, both), both)) > 0


def scores_of(outputs):
    """Every tensor of class scores: a heat map, those of a dense detector, or of an RPN and the stages."""
    if hasattr(outputs, "heatmap"):
        return [outputs.heatmap]
    outputs = getattr(outputs, "detection", outputs)
    if hasattr(outputs, "logits"):
        return [outputs.logits]
    return [stage.logits for stage in outputs.stages] + ([outputs.rpn.logits] if outputs.rpn else [])


@pytest.mark.parametrize("name", FAMILIES)
def test_grey_picture(name):
    model = model_of(name)
    images = torch.full((1, 3, 64, 64), 114, dtype=torch.uint8)
    with torch.no_grad():
        (found,) = model.decode(model(images), torch.tensor([[64, 64]]), score_threshold=0.0)
    assert found.scores.isfinite().all()


def test_units_of_length_of_fcos_follow_its_finest_level():
    options = {"levels": (4, 5), "width": 0.25}
    model = build_model("fcos_resnet18_fpn", 2, width=16, depth=1, backbone_options=options).eval()
    with torch.no_grad():
        outputs = model(torch.rand(1, 3, 128, 128))
    assert outputs.strides.unique().tolist() == [16, 32, 64, 128]


def test_the_coarsest_level_of_a_small_image_is_one_pixel_for_group_norm():
    model = build_model("fcos_resnet18_fpn", 2, width=32, depth=1, backbone_options={"width": 0.25}).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64)).logits.isfinite().all()
