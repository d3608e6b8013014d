"""Boundary losses against scipy, monai and hand-derived values."""

import monai.losses
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from vision.losses.boundary import (
    border_weight_map,
    boundary_iou_loss,
    boundary_loss,
    hausdorff_distance_loss,
    hausdorff_erosion_loss,
    signed_distance,
)
from vision.ops.components import connected_components

LOSSES = [boundary_loss, hausdorff_distance_loss, hausdorff_erosion_loss, boundary_iou_loss]


def disc(size, radius, shift=0):
    grid = torch.arange(size)
    return (((grid[:, None] - size // 2) ** 2 + (grid[None] - size // 2 - shift) ** 2) <= radius**2)[None]


def logits_of(mask, strength=12.0):
    return strength * (2 * mask.float() - 1)[:, None]


def scipy_signed_distance(mask):
    # arXiv:1812.07032's code: edt(outside) * outside - (edt(inside) - 1) * inside
    outside = ~mask
    return ndimage.distance_transform_edt(outside) * outside - (ndimage.distance_transform_edt(mask) - 1) * mask


def test_signed_distance_equals_scipy():
    masks = torch.cat([disc(17, 5), disc(17, 3, 4)])
    expected = np.stack([scipy_signed_distance(mask) for mask in masks.numpy()])
    torch.testing.assert_close(signed_distance(masks), torch.from_numpy(expected).float())
    volume = torch.stack([disc(9, 3)[0]] * 5)
    volume[0] = False
    expected = torch.from_numpy(scipy_signed_distance(volume.numpy())).float()
    torch.testing.assert_close(signed_distance(volume, dims=3), expected)
    nothing = torch.zeros(2, 5, 5, dtype=torch.bool)
    assert not signed_distance(nothing).any()
    assert not signed_distance(~nothing).any()


def test_boundary_loss_is_probability_times_distance():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 9, 8), generator=generator)
    logits = torch.randn(2, 3, 9, 8, generator=generator)
    labels[1, 0] = 255
    maps = torch.stack(
        [torch.from_numpy(scipy_signed_distance((labels[b] == c).numpy())) for b in (0, 1) for c in range(3)]
    )
    product = (logits.softmax(1) * maps.reshape(2, 3, 9, 8) * (labels != 255)[:, None]).sum((0, 2, 3))
    expected = product.mean() / (labels != 255).sum()
    torch.testing.assert_close(boundary_loss(logits, labels), expected.float(), rtol=1e-5, atol=1e-5)


def test_hausdorff_distance_equals_monai():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 12, 10, generator=generator)
    labels = torch.randint(0, 3, (2, 12, 10), generator=generator)
    theirs = monai.losses.HausdorffDTLoss(softmax=True, to_onehot_y=True, include_background=True)
    torch.testing.assert_close(hausdorff_distance_loss(logits, labels), theirs(logits, labels[:, None]))


def test_hausdorff_erosion_equals_scipy():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(1, 1, 15, 15, generator=generator) * 3, disc(15, 5).long()
    error = ((logits[0, 0].sigmoid() - labels[0]) ** 2).double().numpy()
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]) / 5
    expected = 0.0
    for step in range(1, 4):
        error = np.maximum(2 * ndimage.convolve(error, cross, mode="constant") - 1, 0)
        expected += step**2 * error.mean()
    ours = hausdorff_erosion_loss(logits, labels, erosions=3)
    assert ours.item() == pytest.approx(expected, rel=1e-4)
    assert expected > 0


def test_thick_errors_survive_erosion_and_thin_ones_do_not():
    truth = disc(31, 6)
    thin = truth.clone()
    thin[0, 15, :] = True  # 18 pixels too many in lines of width 1
    thick = truth.clone()
    thick[0, 1:6, 1:5] = True  # 20 pixels in a block
    # one erosion leaves 2 * 3/5 - 1 of a line, and nothing of its ends (2/5): of 2 x 9 pixels 2 x 7; two leave nothing
    costs = [hausdorff_erosion_loss(logits_of(mask, 50), truth).item() for mask in (thin, thick)]
    assert costs[0] == pytest.approx(14 * 0.2 / 31**2, rel=1e-3)
    assert costs[1] > 3 * costs[0]


def test_boundary_iou():
    # two squares of side 10 and 12 about one centre, contours one pixel wide: 36 and 44 pixels, no one in common
    small, large = torch.zeros(1, 20, 20, dtype=torch.bool), torch.zeros(1, 20, 20, dtype=torch.bool)
    small[0, 5:15, 5:15] = True
    large[0, 4:16, 4:16] = True
    assert boundary_iou_loss(logits_of(small, 50), small, width=1).item() == pytest.approx(0, abs=1e-6)
    assert boundary_iou_loss(logits_of(large, 50), small, width=1).item() == pytest.approx(1, abs=1e-6)
    # two pixels wide: the inner ring of the large one (side 10, 36 pixels) is the outer ring of the small one (36 + 28)
    union = (44 + 36) + (36 + 28) - 36
    assert boundary_iou_loss(logits_of(large, 50), small, width=2).item() == pytest.approx(1 - 36 / union, abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_worse_contours_cost_more(loss):
    truth = disc(33, 8)
    costs = [loss(logits_of(disc(33, 8, shift)), truth).item() for shift in (0, 2, 5, 9)]
    assert costs == sorted(costs)
    assert costs[3] > costs[0]


@pytest.mark.parametrize("loss", LOSSES)
def test_descent_moves_a_contour_onto_the_truth(loss):
    # the disc is 3 pixels off: the loss alone brings the overlap up
    truth = disc(25, 7)
    logits = logits_of(disc(25, 7, 3), 2.0).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss(logits, truth).backward()
        optimizer.step()
    found = logits[:, 0] > 0
    before = (disc(25, 7, 3) & truth).sum() / (disc(25, 7, 3) | truth).sum()
    assert (found & truth).sum() / (found | truth).sum() > before + 0.15


def test_border_weight_map():
    # a row with cells at columns 0 and 4..5: from column 2, d1 = d2 = 2: 1 + 10 exp(-16 / 50)
    row = torch.tensor([[[1, 0, 0, 0, 2, 2]]])
    expected = 1 + 10 * torch.exp(torch.tensor(-16.0 / 50))
    weights = border_weight_map(row)
    torch.testing.assert_close(weights[0, 0, 1:4], expected.expand(3))
    assert (weights[row > 0] == 1).all()
    assert (border_weight_map(torch.tensor([[[1, 0, 0, 0, 0, 0]]])) == 1).all()  # nothing to be kept apart from
    assert (border_weight_map(torch.zeros(1, 4, 4, dtype=torch.long)) == 1).all()


def test_border_weight_map_equals_the_formula_with_scipy():
    generator = torch.Generator().manual_seed(3)
    mask = F.avg_pool2d(torch.rand(2, 1, 40, 36, generator=generator), 5, 1, 2)[:, 0] > 0.52
    instances = connected_components(mask)
    assert instances.amax((1, 2)).min() > 3
    for image in range(2):
        cells = instances[image].numpy()
        distances = np.stack([ndimage.distance_transform_edt(cells != n) for n in range(1, cells.max() + 1)])
        distances.sort(0)
        expected = 1 + 10 * np.exp(-((distances[0] + distances[1]) ** 2) / 50) * (cells == 0)
        ours = border_weight_map(instances)[image]
        torch.testing.assert_close(ours, torch.from_numpy(expected).float())


@pytest.mark.parametrize("diagonal", [False, True])
def test_connected_components_equal_scipy(diagonal):
    generator = torch.Generator().manual_seed(0)
    structure = np.ones((3, 3)) if diagonal else None
    for share in (0.0, 0.3, 0.55, 0.8, 1.0):
        mask = torch.rand(2, 41, 37, generator=generator) < share
        labels = connected_components(mask, diagonal=diagonal)
        for image in range(2):
            expected, _ = ndimage.label(mask[image].numpy(), structure=structure)
            assert (labels[image].numpy() == expected).all()
    assert connected_components(torch.zeros(0, 4, 4, dtype=torch.bool)).shape == (0, 4, 4)


def test_peak_memory_is_below_monais(peak):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(1, 12, 32, 64, generator=generator), torch.randint(0, 12, (1, 32, 64))
    theirs = monai.losses.HausdorffDTLoss(softmax=True, to_onehot_y=True, include_background=True)
    bound = peak(lambda x, y: theirs(x, y[:, None]), logits, labels)
    for loss in (boundary_loss, hausdorff_distance_loss, hausdorff_erosion_loss):
        assert peak(loss, logits, labels) < min(bound, 3.5)  # probabilities, slope and gradient


def test_refusals():
    with pytest.raises(ValueError, match=r"expected \(B, C, H, W\) or \(B, C, D, H, W\)"):
        boundary_loss(torch.zeros(1, 2, 5), torch.zeros(1, 5))
    with pytest.raises(ValueError, match=r"expected \(B, H, W\)"):
        border_weight_map(torch.zeros(5, 5))
