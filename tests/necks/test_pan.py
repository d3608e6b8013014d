import pytest
import torch

from vision.necks.pan import PathAggregation


def test_keeps_sizes_and_channels():
    neck = PathAggregation((16, 32, 48), depth=1)
    levels = [torch.randn(2, width, 16 // 2**i, 24 // 2**i) for i, width in enumerate((16, 32, 48))]
    assert [out.shape for out in neck(levels)] == [level.shape for level in levels]


def test_every_output_sees_every_level():
    neck = PathAggregation((16, 16, 16)).eval()
    levels = [torch.randn(1, 16, 8 // 2**i, 8 // 2**i, requires_grad=True) for i in range(3)]
    for out in neck(levels):
        grads = torch.autograd.grad(out.square().sum(), levels, retain_graph=True)
        assert all(grad.abs().sum() > 0 for grad in grads)


def test_wrong_number_of_levels_is_named():
    with pytest.raises(ValueError, match="2 levels; built for 3"):
        PathAggregation((16, 16, 16))([torch.zeros(1, 16, 4, 4)] * 2)
