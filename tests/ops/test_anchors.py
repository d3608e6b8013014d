"""Anchors against torchvision's and against hand-derived ones."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator as Oracle
from torchvision.models.detection.image_list import ImageList

from vision.ops.anchors import AnchorGenerator


@pytest.mark.parametrize("size", [(64, 96), (800, 608)])
def test_equals_torchvision_where_the_pooled_grid_does_not_divide_the_image(size):
    sizes = ((32,), (64, 80), (128,))
    ratios = ((0.5, 1.0, 2.0),) * 3
    grids = [(size[0] // 16, size[1] // 16), (size[0] // 32, size[1] // 32), ((size[0] // 32 + 1) // 2,) * 2]
    features = [torch.zeros(1, 1, *grid) for grid in grids]
    expected = Oracle(sizes, ratios)(ImageList(torch.zeros(1, 3, *size), [size]), features)[0]
    generator = AnchorGenerator(sizes, ratios)
    anchors, strides = generator(grids, size)
    assert generator.counts == (3, 6, 3)
    assert torch.equal(anchors, expected)
    assert strides.shape == (len(anchors),)
    assert strides[0] == 16


def test_hand_derived_with_given_strides():
    # size 32, ratio h/w 4: width 32 / 2 = 16, height 32 * 2 = 64, around (0, 0) and, one stride of 10 on, (10, 0)
    anchors, strides = AnchorGenerator(((32,),), (4.0,), strides=(10,))([(1, 2)], (999, 999))
    assert anchors.tolist() == [[-8, -32, 8, 32], [2, -32, 18, 32]]
    assert strides.tolist() == [10, 10]


def test_nothing_in_the_state_dict_and_wrong_counts_are_refused():
    generator = AnchorGenerator(((32,), (64,)))
    assert not generator.state_dict()
    with pytest.raises(ValueError, match="1 feature maps"):
        generator([(2, 2)], (64, 64))
    with pytest.raises(ValueError, match="give one of each"):
        AnchorGenerator(((32,), (64,)), strides=(8,))
