"""The pyramid against torchvision's, with the same weights."""

from collections import OrderedDict

import pytest
import torch
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from vision.necks.fpn import FeaturePyramid

CHANNELS = (8, 12, 16)


@pytest.mark.parametrize(
    ("extra", "oracle"),
    [
        (None, lambda: None),
        ("pool", LastLevelMaxPool),
        ("p6p7", lambda: LastLevelP6P7(10, 10)),
        ("p6p7_c5", lambda: LastLevelP6P7(16, 10)),
    ],
)
def test_equals_torchvision_on_odd_sizes(extra, oracle):
    reference = FeaturePyramidNetwork(list(CHANNELS), 10, oracle())
    pyramid = FeaturePyramid(CHANNELS, 10, extra)
    pyramid.load_state_dict(reference.state_dict())
    features = [torch.rand(2, c, *size) for c, size in zip(CHANNELS, [(25, 33), (13, 17), (7, 9)])]
    ours = pyramid(features)
    theirs = (
        reference(OrderedDict(enumerate(features)))
        if extra is None
        else reference(OrderedDict((str(i), f) for i, f in enumerate(features)))
    )
    assert len(ours) == len(theirs) == len(pyramid.channels)
    for mine, other in zip(ours, theirs.values()):
        torch.testing.assert_close(mine, other)


def test_norm_drops_the_bias():
    pyramid = FeaturePyramid(CHANNELS, 8, "p6p7", norm="batch")
    assert pyramid.inner_blocks[0].conv.bias is None
    assert FeaturePyramid(CHANNELS, 8).inner_blocks[0].conv.bias is not None


def test_unknown_extra_is_refused():
    with pytest.raises(ValueError, match="p6p7"):
        FeaturePyramid(CHANNELS, 8, "p8")
