"""Box losses against torchvision, torch and hand-derived values."""

import math

import pytest
import torch
import torchvision.ops

from vision.losses.boxes import balanced_l1_loss, box_iou_loss, distribution_focal_loss, smooth_l1_loss
from vision.ops.boxes import IOU_KINDS


def draw_boxes(count, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=dtype) * 10
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator, dtype=dtype) * 10], 1)


@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_equal_to_torchvision(kind):
    theirs = {
        "giou": torchvision.ops.generalized_box_iou_loss,
        "diou": torchvision.ops.distance_box_iou_loss,
        "ciou": torchvision.ops.complete_box_iou_loss,
    }[kind]
    a, b = draw_boxes(30, 0), draw_boxes(30, 1)
    torch.testing.assert_close(box_iou_loss(a, b, kind=kind), theirs(a, b, reduction="sum"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", IOU_KINDS)
def test_every_kind(kind):
    a, b = draw_boxes(6, 0, torch.float64).requires_grad_(), draw_boxes(6, 1, torch.float64)
    loss = box_iou_loss(b, b, kind=kind)
    assert loss.item() == pytest.approx(0, abs=1e-5)  # nothing to improve
    weight = torch.arange(6)
    each = box_iou_loss(a, b, kind=kind, reduction="none")
    torch.testing.assert_close(box_iou_loss(a, b, kind=kind, weight=weight), (each * weight).sum())
    torch.testing.assert_close(box_iou_loss(a, b, kind=kind, normaliser=4.0), each.sum() / 4)
    if kind != "ciou":  # its trade-off weight is held constant, so differences disagree by design
        assert torch.autograd.gradcheck(lambda x: box_iou_loss(x, b, kind=kind), a, fast_mode=True)
        assert torch.autograd.gradcheck(lambda x: box_iou_loss(x, b, kind=kind, alpha=3.0), a, fast_mode=True)
    empty = a[:0].detach().requires_grad_()
    box_iou_loss(empty, b[:0], kind=kind).backward()
    degenerate = torch.zeros(1, 4, requires_grad=True)
    box_iou_loss(degenerate, torch.zeros(1, 4), kind=kind).backward()
    assert degenerate.grad.isfinite().all()


def test_gradient_descent_moves_a_box_onto_its_target_without_overlap():
    # IoU has no gradient there; the enclosing box and the distance of the centres have
    target = torch.tensor([[20.0, 20.0, 30.0, 40.0]])
    kinds = ("giou", "diou", "ciou", "eiou", "siou")
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]] * len(kinds), requires_grad=True)
    optimizer = torch.optim.Adam([boxes], lr=1.0)
    for _ in range(120):
        optimizer.zero_grad()
        sum(box_iou_loss(boxes[i], target[0], kind=kind) for i, kind in enumerate(kinds)).backward()
        optimizer.step()
    for kind, box in zip(kinds, boxes):
        assert box_iou_loss(box, target[0], kind="iou").item() < 0.3, kind


def test_alpha_iou():
    # boxes of area 100 that share 50: IoU 1/3; power 3: 1 - 1/27
    a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 15, 10]])
    assert box_iou_loss(a, b, kind="iou", alpha=3.0).item() == pytest.approx(1 - 1 / 27, abs=1e-5)
    # DIoU's penalty: centres 5 apart, the hull's diagonal^2 325: (25 / 325)^3 on top
    assert box_iou_loss(a, b, kind="diou", alpha=3.0).item() == pytest.approx(1 - 1 / 27 + (25 / 325) ** 3, abs=1e-5)


def test_alpha_raises_each_penalty():
    # 10 x 10 and 10 x 20 boxes, 5 apart in x: shared 50, union 250, IoU 0.2; hull 15 x 20, its diagonal^2 625; centres
    # (5, 5) and (10, 10), distance^2 50, so the first penalty is 0.08
    a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 15, 20]])
    # EIoU: widths are equal, (10 - 20)^2 / 20^2 = 0.25 of the heights
    assert box_iou_loss(a, b, kind="eiou").item() == pytest.approx(0.8 + 0.08 + 0.25, abs=1e-5)
    expected = 1 - 0.2**3 + 0.08**3 + 0.25**3
    assert box_iou_loss(a, b, kind="eiou", alpha=3.0).item() == pytest.approx(expected, abs=1e-5)
    # CIoU: v = 4 / pi^2 (atan(1 / 2) - atan(1))^2, weighted by v / (1 - IoU + v)
    v = 4 / math.pi**2 * (math.atan(0.5) - math.atan(1)) ** 2
    aspect = v * v / (0.8 + v)
    assert box_iou_loss(a, b, kind="ciou").item() == pytest.approx(0.8 + 0.08 + aspect, abs=1e-5)
    expected = 1 - 0.2**2 + 0.08**2 + aspect**2
    assert box_iou_loss(a, b, kind="ciou", alpha=2.0).item() == pytest.approx(expected, abs=1e-5)


def test_distribution_focal_loss():
    # target 2.25 lies between bins 2 and 3, shares 0.75 and 0.25, of a uniform distribution over 5: ln 5
    logits = torch.zeros(1, 5)
    assert distribution_focal_loss(logits, torch.tensor([2.25])).item() == pytest.approx(math.log(5))
    logits = torch.randn(3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.tensor([[0.0, 4.0], [1.5, 3.999], [2.0, 9.0]], dtype=torch.float64)  # 9 counts as 4, the last bin
    log_probability = logits.log_softmax(-1)
    loss = distribution_focal_loss(logits, target)
    torch.testing.assert_close(loss[0, 1], -log_probability[0, 1, 4])
    torch.testing.assert_close(loss[1, 0], -(log_probability[1, 0, 1] + log_probability[1, 0, 2]) / 2)
    torch.testing.assert_close(loss[2, 1], -log_probability[2, 1, 4])
    assert torch.autograd.gradcheck(
        lambda x: distribution_focal_loss(x, target, reduction="sum"), logits, fast_mode=True
    )
    extreme = torch.full((1, 5), -1e4, dtype=torch.bfloat16).index_fill(1, torch.tensor([0]), 1e4).requires_grad_()
    distribution_focal_loss(extreme, torch.tensor([3.5]), reduction="sum").backward()
    assert extreme.grad.isfinite().all()


def test_smooth_l1_equals_torch():
    a, b = draw_boxes(9, 0), draw_boxes(9, 1)
    for beta in (0.0, 0.11, 1.0):
        theirs = torch.nn.functional.smooth_l1_loss(a, b, beta=beta, reduction="sum")
        torch.testing.assert_close(smooth_l1_loss(a, b, beta=beta), theirs)


def test_balanced_l1():
    # alpha 0.5, gamma 1.5: b = e^3 - 1; at d = 1 the value is alpha/b ((b+1) ln(b+1) - b) and the slope gamma
    b = math.exp(3) - 1
    edge = 0.5 / b * ((b + 1) * 3 - b)
    loss = balanced_l1_loss(torch.tensor([1.0, 3.0]), torch.zeros(2), reduction="none")
    torch.testing.assert_close(loss, torch.tensor([edge, edge + 1.5 * 2]))
    pred = torch.tensor([-2.0, -0.5, 0.3, 0.99, 1.01], dtype=torch.float64, requires_grad=True)
    for beta in (1.0, 0.25):
        assert torch.autograd.gradcheck(
            lambda x, beta=beta: balanced_l1_loss(x, torch.zeros_like(x), beta=beta), pred, fast_mode=True
        )


def test_refusals():
    with pytest.raises(ValueError, match="pair by pair"):
        box_iou_loss(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"\(\.\.\., bins\)"):
        distribution_focal_loss(torch.zeros(2, 4), torch.zeros(3))
