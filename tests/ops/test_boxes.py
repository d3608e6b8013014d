import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.ops.boxes import (
    IOU_KINDS,
    box_area,
    clip_boxes,
    cxcywh_to_xyxy,
    paired_iou,
    pairwise_intersection,
    pairwise_iou,
    xyxy_to_cxcywh,
)


def random_boxes(count, seed=0, low=1.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 80
    return torch.cat([corner, corner + low + torch.rand(count, 2, generator=generator) * 60], 1)


def test_hand_derived_values():
    # a 4x4 and a 4x4 shifted by (2, 2): intersection 4, union 28, IoU 1/7; hull 6x6 = 36: GIoU = 1/7 - 8/36;
    # centres 2 apart in x and y, hull diagonal^2 72: DIoU = 1/7 - 8/72; same aspect and sides: CIoU = EIoU = DIoU
    a, b = torch.tensor([0.0, 0, 4, 4]), torch.tensor([2.0, 2, 6, 6])
    expected = {
        "iou": 1 / 7,
        "giou": 1 / 7 - 8 / 36,
        "diou": 1 / 7 - 1 / 9,
        "ciou": 1 / 7 - 1 / 9,
        "eiou": 1 / 7 - 1 / 9,
    }
    for kind, value in expected.items():
        assert paired_iou(a, b, kind).item() == pytest.approx(value, abs=1e-6)
    # SIoU: angle 45 degrees, so angle cost 1 and gamma 1; distance cost 2 (1 - exp(-(2/6)^2)); equal shapes
    assert paired_iou(a, b, "siou").item() == pytest.approx(1 / 7 - (1 - math.exp(-1 / 9)), abs=1e-6)


def test_ciou_aspect_term():
    # same centre, 4x2 against 2x4: IoU = 4 / 12; v = 4/pi^2 (atan 2 - atan 0.5)^2; alpha = v / (1 - IoU + v)
    a, b = torch.tensor([0.0, 1, 4, 3]), torch.tensor([1.0, 0, 3, 4])
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    assert paired_iou(a, b, "ciou").item() == pytest.approx(1 / 3 - v * v / (2 / 3 + v), abs=1e-6)
    # EIoU: hull 4x4, sides differ by 2: (2/4)^2 + (2/4)^2
    assert paired_iou(a, b, "eiou").item() == pytest.approx(1 / 3 - 0.5, abs=1e-6)
    # SIoU: no distance cost; shape: both omegas 2/4: (1 - exp(-1/2))^4 * 2 / 2
    assert paired_iou(a, b, "siou").item() == pytest.approx(1 / 3 - (1 - math.exp(-0.5)) ** 4, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [
        ("iou", torchvision.ops.box_iou),
        ("giou", torchvision.ops.generalized_box_iou),
        ("diou", torchvision.ops.distance_box_iou),
        ("ciou", torchvision.ops.complete_box_iou),
    ],
)
def test_pairwise_equals_torchvision(kind, oracle):
    a, b = random_boxes(40, 1), random_boxes(50, 2)
    torch.testing.assert_close(pairwise_iou(a, b, kind), oracle(a, b), atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(IOU_KINDS))
def test_ranges_and_identity(seed, kind):
    a, b = random_boxes(8, seed), random_boxes(8, seed + 1)
    values = pairwise_iou(a, b, kind)
    assert values.max() <= 1 + 1e-5
    assert values.min() >= (0 if kind == "iou" else -3)
    torch.testing.assert_close(paired_iou(a, a, kind), torch.ones(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(paired_iou(a, b, kind), paired_iou(b, a, kind), atol=1e-5, rtol=1e-4)  # symmetric


@pytest.mark.parametrize("kind", IOU_KINDS)
def test_boxes_without_area_have_finite_values_and_gradients(kind):
    a = torch.tensor([[3.0, 3, 3, 3], [0, 0, 5, 0], [1, 1, 4, 4]], requires_grad=True)
    b = torch.tensor([[3.0, 3, 3, 3], [0, 0, 5, 5], [9, 9, 9, 9]])
    values = paired_iou(a, b, kind)
    values.sum().backward()
    assert values.isfinite().all()
    assert a.grad.isfinite().all()


def test_empty_and_batched_shapes():
    assert pairwise_iou(torch.zeros(0, 4), random_boxes(3)).shape == (0, 3)
    assert pairwise_iou(torch.zeros(2, 5, 4), torch.zeros(2, 7, 4)).shape == (2, 5, 7)
    a, b = random_boxes(4), random_boxes(3, 5)
    both = pairwise_iou(torch.stack([a, a]), torch.stack([b, b.flip(0)]))
    torch.testing.assert_close(both[1], pairwise_iou(a, b).flip(1))


def test_unknown_kind_names_the_choices():
    with pytest.raises(ValueError, match="choose one of iou, giou"):
        paired_iou(random_boxes(1), random_boxes(1), "niou")


def test_round_trip_area_and_intersection():
    boxes = random_boxes(20)
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes, atol=1e-4, rtol=0)
    torch.testing.assert_close(pairwise_intersection(boxes, boxes).diagonal(), box_area(boxes))
    # 4x4 and 4x4 shifted by (2, 1): 2 x 3
    shared = pairwise_intersection(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[2.0, 1, 6, 5], [8, 8, 9, 9]]))
    assert shared.tolist() == [[6.0, 0.0]]


def test_clip_to_each_images_height_and_width():
    boxes = torch.tensor([[-3.0, -4, 100, 100]]).expand(2, 1, 4)
    clipped = clip_boxes(boxes, torch.tensor([[20, 30], [50, 40]]))
    assert clipped.tolist() == [[[0, 0, 30, 20]], [[0, 0, 40, 50]]]


def test_same_on_every_device(device):
    a, b = random_boxes(10), random_boxes(12, 3)
    for kind in IOU_KINDS:
        torch.testing.assert_close(
            pairwise_iou(a.to(device), b.to(device), kind).cpu(), pairwise_iou(a, b, kind), atol=1e-5, rtol=1e-4
        )
