"""Cross-entropy and the focal family against torch, torchvision and hand-derived values."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from vision.losses.classification import (
    binary_cross_entropy,
    cross_entropy,
    heatmap_focal_loss,
    quality_focal_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
    varifocal_loss,
)

ELEMENTWISE = [binary_cross_entropy, sigmoid_focal_loss, quality_focal_loss, varifocal_loss, heatmap_focal_loss]
generator = torch.Generator().manual_seed(0)


def draw(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def draw_labels(classes, *shape):
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5, 4), (2, 3, 2, 3, 4)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torch(shape, smoothing):
    logits, labels = draw(*shape), draw_labels(3, shape[0], *shape[2:])
    labels.view(-1)[0] = 255
    weight = torch.tensor([0.5, 1.0, 3.0])
    for reduction in ("none", "sum", "mean"):
        ours = cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing, reduction=reduction)
        torchs = F.cross_entropy(
            logits, labels, weight, ignore_index=255, label_smoothing=smoothing, reduction=reduction
        )
        torch.testing.assert_close(ours, torchs)


def test_cross_entropy_pixel_weight_is_repetition():
    # a pixel of weight 2 counts as two pixels of weight 1 do
    logits, labels = draw(1, 3, 4), draw_labels(3, 1, 4)
    weighted = cross_entropy(logits, labels, pixel_weight=torch.tensor([[2.0, 1.0, 1.0, 0.0]]))
    index = [0, 0, 1, 2]
    torch.testing.assert_close(weighted, F.cross_entropy(logits[..., index], labels[..., index]))


def test_cross_entropy_of_nothing_is_zero_with_a_gradient():
    logits = draw(2, 3, 4).requires_grad_()
    loss = cross_entropy(logits, torch.full((2, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0


def test_binary_cross_entropy_equals_torch():
    logits, targets = draw(5, 3), torch.rand(5, 3, generator=generator)
    positive = torch.tensor([1.0, 2.0, 5.0])
    ours = binary_cross_entropy(logits, targets, positive_weight=positive)
    torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(logits, targets, pos_weight=positive))
    smoothed = binary_cross_entropy(logits, targets, label_smoothing=0.2)
    torch.testing.assert_close(smoothed, F.binary_cross_entropy_with_logits(logits, targets * 0.8 + 0.1))


@pytest.mark.parametrize("alpha", [0.25, None])
@pytest.mark.parametrize("gamma", [0.0, 2.0, 3.5])
def test_sigmoid_focal_equals_torchvision(alpha, gamma):
    logits, targets = draw(6, 4), draw_labels(2, 6, 4).float()
    ours = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)
    theirs = torchvision_focal(logits, targets, alpha=-1 if alpha is None else alpha, gamma=gamma, reduction="sum")
    torch.testing.assert_close(ours, theirs)


def test_softmax_focal():
    # p_t = 3/4 (logits ln 3, 0): (1/4)^2 * ln(4/3)
    logits = torch.tensor([[math.log(3.0), 0.0]])
    loss = softmax_focal_loss(logits, torch.tensor([0]), gamma=2.0)
    assert loss.item() == pytest.approx(math.log(4 / 3) / 16)
    logits, labels = draw(3, 4, 5), draw_labels(4, 3, 5)
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    plain = cross_entropy(logits, labels, weight=weight)
    torch.testing.assert_close(softmax_focal_loss(logits, labels, weight=weight, gamma=0.0), plain)


def test_quality_focal():
    # p = 1/2, y = 0.8: |0.8 - 0.5|^2 * ln 2
    loss = quality_focal_loss(torch.zeros(1), torch.tensor([0.8]))
    assert loss.item() == pytest.approx(0.09 * math.log(2))
    hard = draw_labels(2, 8).float()
    focal = sigmoid_focal_loss(draw(8), hard, alpha=None)  # of hard labels it is the focal loss
    torch.testing.assert_close(quality_focal_loss(draw(8), hard), focal)


def test_varifocal():
    # p = 1/2: a positive of IoU 0.8 costs 0.8 ln 2, a negative 0.75 / 4 ln 2
    losses = varifocal_loss(torch.zeros(2), torch.tensor([0.8, 0.0]), reduction="none")
    torch.testing.assert_close(losses, torch.tensor([0.8, 0.1875]) * math.log(2))


def test_heatmap_focal():
    # p = 1/2: a centre costs (1/2)^2 ln 2; beside it at 0.5, a further (1 - 0.5)^4
    losses = heatmap_focal_loss(torch.zeros(3), torch.tensor([1.0, 0.5, 0.0]), reduction="none")
    torch.testing.assert_close(losses, torch.tensor([0.25, 0.25 / 16, 0.25]) * math.log(2))


@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_elementwise_losses(loss):
    logits = draw(3, 4, dtype=torch.float64).requires_grad_()
    targets = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    targets.view(-1)[:6] = torch.tensor([0.0, 1.0] * 3)
    values = loss(logits, targets, reduction="none")
    torch.testing.assert_close(loss(logits, targets, normaliser=5.0), values.sum() / 5)
    weight = torch.arange(3)[:, None]
    torch.testing.assert_close(loss(logits, targets, weight=weight, reduction="sum"), (values * weight).sum())
    empty = logits[:0].detach().requires_grad_()
    loss(empty, targets[:0], reduction="mean").backward()
    assert loss(empty, targets[:0], reduction="mean") == 0


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_gradient_is_finite_where_right(gamma):
    # (1 - p)^gamma has an infinite slope at p = 1 when gamma < 1
    for loss, targets in ((sigmoid_focal_loss, torch.tensor([[1.0, 0.0]])), (softmax_focal_loss, torch.tensor([0]))):
        logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
        loss(logits, targets, gamma=gamma).backward()
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [cross_entropy, softmax_focal_loss])
def test_softmax_losses_gradient(loss):
    logits = draw(2, 3, 4, dtype=torch.float64).requires_grad_()
    labels = draw_labels(3, 2, 4)
    labels[0, 0] = 255
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, weight=weight), logits, fast_mode=True)


def test_refusals():
    with pytest.raises(ValueError, match="reduction 'average'"):
        cross_entropy(draw(2, 3), draw_labels(3, 2), reduction="average")
    with pytest.raises(ValueError, match=r"expected logits \(B, C"):
        cross_entropy(draw(2, 3, 4), draw_labels(3, 2))
    with pytest.raises(ValueError, match="shapes must agree"):
        sigmoid_focal_loss(draw(2, 3), draw(3, 2))
