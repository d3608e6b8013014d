"""Losses of detectors by name: they are the library's functions, with the options given and no others."""

import pytest
import torch

from vision.losses.boxes import balanced_l1_loss, box_iou_loss, smooth_l1_loss
from vision.losses.classification import (
    binary_cross_entropy,
    quality_focal_loss,
    sigmoid_focal_loss,
    varifocal_loss,
)
from vision.losses.detection import BOX_LOSSES, CLASS_LOSSES, OFFSET_LOSSES, read_box_loss, read_class_loss

BOXES = [
    ("giou", box_iou_loss, {"kind": "giou"}),
    ({"name": "ciou", "alpha": 3}, box_iou_loss, {"kind": "ciou", "alpha": 3}),
    ("l1", smooth_l1_loss, {"beta": 0.0}),
    ({"name": "smooth_l1", "beta": 0.1}, smooth_l1_loss, {"beta": 0.1}),
    ({"name": "balanced_l1", "gamma": 2.0}, balanced_l1_loss, {"gamma": 2.0}),
]
SCORES = [
    ("bce", binary_cross_entropy, {}),
    ({"name": "focal", "alpha": None, "gamma": 1.5}, sigmoid_focal_loss, {"alpha": None, "gamma": 1.5}),
    ({"name": "quality_focal", "beta": 1}, quality_focal_loss, {"beta": 1}),
    ({"name": "varifocal", "alpha": 0.5}, varifocal_loss, {"alpha": 0.5}),
]


@pytest.mark.parametrize(("spec", "function", "options"), BOXES)
def test_box_losses_are_the_functions(spec, function, options):
    low = torch.rand(5, 2, generator=torch.Generator().manual_seed(0)) * 9
    boxes, weight = torch.cat([low, low + 4], 1), torch.arange(5.0)
    loss = read_box_loss(spec, offsets=True)
    weight = weight[:, None] if loss.on_offsets else weight
    expected = function(boxes, boxes + 1, weight=weight, reduction="sum", **options)
    torch.testing.assert_close(loss(boxes, boxes + 1, weight), expected)


@pytest.mark.parametrize(("spec", "function", "options"), SCORES)
def test_class_losses_are_the_functions(spec, function, options):
    generator = torch.Generator().manual_seed(0)
    logits, wanted, weight = torch.randn(5, 3, generator=generator), torch.rand(5, 3), torch.rand(5, 1)
    expected = function(logits, wanted, weight=weight, reduction="sum", **options)
    torch.testing.assert_close(read_class_loss(spec)(logits, wanted, weight), expected)


def test_every_name_is_read():
    assert [read_box_loss(name, offsets=True).name for name in {**OFFSET_LOSSES, **BOX_LOSSES}]
    assert [name for name in CLASS_LOSSES if read_class_loss(name).learns_overlap] == ["quality_focal", "varifocal"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("niou", "box_loss = 'niou'; expected one of iou, giou, diou, ciou, eiou, siou, or a mapping"),
        ("smooth_l1", "expected one of iou, giou"),  # no anchors, no offsets
        (None, "expected one of iou"),
        ({"alpha": 3}, "expected one of iou"),
        ({"name": "ciou", "alpha": 0}, "box_loss ciou.alpha = 0; expected a number above 0"),
        ({"name": "ciou", "gamma": 2}, "box_loss ciou: unknown gamma; known are: alpha"),
    ],
)
def test_refusals_of_box_losses(spec, message):
    with pytest.raises(ValueError, match=message):
        read_box_loss(spec)


@pytest.mark.parametrize(("alpha", "gamma", "fault"), [(0.1, 8, None), (0.001, 1.5, "alpha"), (0.5, 400, "gamma")])
def test_balanced_l1_is_finite_within_its_ranges(alpha, gamma, fault):
    spec = {"name": "balanced_l1", "alpha": alpha, "gamma": gamma}
    if fault:
        with pytest.raises(ValueError, match=rf"balanced_l1\.{fault} = {spec[fault]}; expected a number"):
            read_box_loss(spec, offsets=True)
        return
    offsets = torch.tensor([[0.0, 0.5, 1.0, 100.0]], requires_grad=True)
    loss = read_box_loss(spec, offsets=True)(offsets, torch.zeros(1, 4), torch.ones(1, 1))
    loss.backward()
    assert loss.isfinite() and offsets.grad.isfinite().all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ce", "class_loss = 'ce'; expected one of bce, focal, quality_focal, varifocal"),
        ({"name": "bce", "gamma": 2}, "class_loss bce: unknown gamma; known are: weight"),
        ({"name": "focal", "gamma": -1}, "class_loss focal.gamma = -1; expected a number of 0 or more"),
        ({"name": "focal", "alpha": 2}, "from 0 to 1, or null"),
    ],
)
def test_refusals_of_class_losses(spec, message):
    with pytest.raises(ValueError, match=message):
        read_class_loss(spec)
