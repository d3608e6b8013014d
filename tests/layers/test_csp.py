import pytest
import torch
import torch.nn.functional as F

from vision.layers.csp import Bottleneck, CSPBlock, PoolingPyramid


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_shapes_and_dense_links(depth):
    block = CSPBlock(24, 32, depth)
    assert block(torch.randn(2, 24, 7, 5)).shape == (2, 32, 7, 5)
    assert block.join.conv.in_channels == 16 * (2 + depth)


def test_shortcut_is_the_input():
    torch.manual_seed(0)
    x = torch.randn(1, 8, 6, 6)
    with_it, without = Bottleneck(8).eval(), Bottleneck(8, shortcut=False).eval()
    without.load_state_dict(with_it.state_dict())
    torch.testing.assert_close(with_it(x) - without(x), x, atol=1e-6, rtol=1e-5)


def test_chained_pools_are_pools_of_5_9_and_13():
    torch.manual_seed(0)
    layer = PoolingPyramid(8, 16).eval()
    x = torch.randn(1, 8, 20, 20)
    entry = layer.entry(x)
    pools = [F.max_pool2d(entry, size, 1, size // 2) for size in (5, 9, 13)]
    torch.testing.assert_close(layer(x), layer.join(torch.cat([entry, *pools], 1)))
