"""Norms by name: shapes, what they normalise over, frozen batch norm against torchvision's."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from vision.layers.norm import NORMS, FrozenBatchNorm, build_norm


@pytest.mark.parametrize("name", sorted(set(NORMS) - {"sync_batch"}))
@pytest.mark.parametrize("channels", [8, 36])
def test_every_norm_keeps_shape_and_passes_a_gradient(name, channels):
    x = torch.rand(2, channels, 5, 7, requires_grad=True)
    y = build_norm(name, channels)(x)
    assert y.shape == x.shape
    (y * torch.rand_like(y)).sum().backward()
    assert x.grad.abs().sum() > 0


def test_layer_and_rms_normalise_the_channels_of_each_place():
    x = torch.randn(2, 16, 3, 4) * 5 + 2
    layer = build_norm("layer", 16)(x)
    torch.testing.assert_close(layer.mean(1), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(layer.var(1, unbiased=False), torch.ones(2, 3, 4), atol=1e-4, rtol=0)
    rms = build_norm("rms", 16)(x)
    torch.testing.assert_close(rms.square().mean(1), torch.ones(2, 3, 4), atol=1e-4, rtol=0)


def test_group_norm_takes_32_groups_or_the_most_that_divide():
    assert build_norm("group", 64).num_groups == 32
    assert build_norm("group", 36).num_groups == 18


def test_frozen_batch_norm_equals_torchvision_and_loads_a_trained_one():
    trained = nn.BatchNorm2d(6)
    for value in trained.state_dict().values():
        value.copy_(torch.rand(value.shape) * 3 + 0.1)
    frozen, theirs = FrozenBatchNorm(6), FrozenBatchNorm2d(6)
    frozen.load_state_dict(trained.state_dict())
    theirs.load_state_dict(trained.state_dict())
    x = torch.randn(2, 6, 4, 4)
    frozen.train()
    torch.testing.assert_close(frozen(x), theirs(x))
    torch.testing.assert_close(frozen(x), trained.eval()(x))
    assert not list(frozen.parameters())


def test_a_function_a_missing_norm_and_an_unknown_name():
    assert build_norm(partial(nn.BatchNorm2d, eps=1e-3), 4).eps == 1e-3
    assert isinstance(build_norm(None, 4), nn.Identity)
    assert isinstance(build_norm("sync_batch", 4), nn.SyncBatchNorm)
    with pytest.raises(ValueError, match="frozen_batch"):
        build_norm("bach", 4)
