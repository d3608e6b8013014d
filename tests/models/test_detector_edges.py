"""Objects at the edge of what occurs, for each one-stage family: huge, one pixel, hundreds, crowds, a grey picture."""

import pytest
import torch

from vision.models import build_model
from vision.structures import Targets

PYRAMID = {"backbone": "resnet18", "width": 64, "depth": 1, "backbone_options": {"width": 0.25}}
FAMILIES = {
    "yolo_n": {"depth": 0.3, "width": 0.03},
    "retinanet_resnet50_fpn": PYRAMID,
    "retinanet_resnet50_fpn_v2": PYRAMID,
    "fcos_resnet18_fpn": PYRAMID,
    "ssd300_vgg16": {"width": 0.0625},
    "ssdlite320_mobilenet_v2": {"width": 0.25},
    "centernet_resnet18": {"channels": (16, 16, 16), "width": 16, "backbone_options": {"width": 0.25}},
}


def model_of(name):
    torch.manual_seed(0)
    return build_model(name, 3, **FAMILIES[name]).eval()


def targets_of(boxes, crowd=None):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(1, -1, 4)
    labels = torch.arange(boxes.shape[1])[None] % 3
    crowd = torch.zeros_like(labels, dtype=torch.bool) if crowd is None else torch.tensor([crowd])
    return Targets(boxes, labels, torch.ones_like(crowd), crowd)


def finite_losses(model, images, targets):
    losses = model.loss(model(images), targets)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    return losses


@pytest.mark.parametrize("name", FAMILIES)
def test_object_as_large_as_the_image(name):
    losses = finite_losses(model_of(name), torch.rand(1, 3, 64, 96), targets_of([[0, 0, 96, 64]]))
    assert losses["size" if name.startswith("centernet") else "box"] > 0  # something answers for it


@pytest.mark.parametrize("name", FAMILIES)
def test_objects_of_one_pixel_and_of_no_area(name):
    boxes = [[5, 5, 6, 6], [30, 40, 31, 41], [63, 63, 64, 64], [10, 10, 10, 20], [0, 0, 0, 0]]
    finite_losses(model_of(name), torch.rand(1, 3, 64, 64), targets_of(boxes))


@pytest.mark.parametrize("name", FAMILIES)
def test_five_hundred_objects(name):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(500, 2, generator=generator) * 80
    boxes = torch.cat([corner, corner + 2 + torch.rand(500, 2, generator=generator) * 14], 1)
    finite_losses(model_of(name), torch.rand(1, 3, 96, 96), targets_of(boxes))


@pytest.mark.parametrize("name", FAMILIES)
def test_crowds_are_neither_objects_nor_background(name):
    model = model_of(name)
    images = torch.rand(1, 3, 64, 64)
    outputs = model(images)
    scored = outputs.heatmap if name.startswith("centernet") else outputs.logits
    scored.retain_grad()
    everything = targets_of([[-500, -500, 600, 600]], crowd=[True])
    sum(model.loss(outputs, everything).values()).backward()
    assert scored.grad.abs().sum() == 0
    # beside a crowd over the left half, an object on the right still counts
    losses = model.loss(model(images), targets_of([[0, 0, 32, 64], [36, 8, 60, 56]], crowd=[True, False]))
    assert losses["size" if name.startswith("centernet") else "box"] > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_grey_picture(name):
    model = model_of(name)
    images = torch.full((1, 3, 64, 64), 114, dtype=torch.uint8)
    with torch.no_grad():
        (found,) = model.decode(model(images), torch.tensor([[64, 64]]), score_threshold=0.0)
    assert found.scores.isfinite().all()
