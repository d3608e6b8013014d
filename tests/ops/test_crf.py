"""The permutohedral lattice against sums written out, and what the dense CRF makes of noise."""

import pytest
import torch

from vision.ops.crf import dense_crf
from vision.ops.permutohedral import PermutohedralLattice


@pytest.mark.parametrize("dimensions", [2, 3, 5])
def test_lattice_approximates_the_gaussian_sums(dimensions):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, dimensions, generator=generator)
    values = torch.rand(500, 3, generator=generator)
    lattice = PermutohedralLattice(features)
    kernel = torch.exp(-0.5 * torch.cdist(features, features).square())
    exact = kernel @ values / kernel.sum(1, keepdim=True)
    found = lattice.filter(values) / lattice.filter(torch.ones(500, 1))
    # both are means of the same values under nearly the same weights; the values' own spread is 0.29
    assert float((found - exact).abs().mean()) < 0.03
    assert float(torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1]) > 0.8


def test_lattice_weights_are_barycentric():
    lattice = PermutohedralLattice(3 * torch.randn(200, 4))
    assert lattice.weights.min() >= -1e-4
    torch.testing.assert_close(lattice.weights.sum(1), torch.ones(200), atol=1e-4, rtol=1e-4)


def test_far_points_do_not_meet():
    lattice = PermutohedralLattice(torch.tensor([[0.0, 0.0], [50.0, 50.0]]))
    found = lattice.filter(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert found[0, 1] == found[1, 0] == 0
    assert (found.diagonal() > 0).all()


def test_crf_removes_noise_and_follows_the_edge():
    # a picture of two flat colours; a fourth of the pixels is weakly assigned to the wrong side
    generator = torch.Generator().manual_seed(0)
    truth = (torch.arange(40) >= 17).long().expand(24, 40)
    image = (truth * 120 + 60).to(torch.uint8).expand(3, 24, 40)
    wrong = torch.rand(24, 40, generator=generator) < 0.25
    second = torch.where(wrong, 1 - truth, truth) * 0.4 + 0.3  # probability of class 1: 0.3 or 0.7
    probability = torch.stack([1 - second, second])
    assert float((probability.argmax(0) == truth).float().mean()) < 0.8
    refined = dense_crf(probability, image)
    assert torch.equal(refined.argmax(0), truth)
    torch.testing.assert_close(refined.sum(0), torch.ones(24, 40))


def test_without_iterations_nothing_changes():
    probability = torch.rand(3, 5, 6).softmax(0)
    image = torch.rand(3, 5, 6)
    torch.testing.assert_close(dense_crf(probability, image, iterations=0), probability, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="image"):
        dense_crf(probability, image[:, :4])
