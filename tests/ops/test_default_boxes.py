import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from vision.ops.default_boxes import DefaultBoxes, linear_scales


@pytest.mark.parametrize("strides", [None, (8, 16)])
@pytest.mark.parametrize("size", [(64, 64), (60, 100)])
def test_equals_torchvision(strides, size):
    grids = [(8, 13), (4, 7)]
    scales = (0.1, 0.4, 0.9)
    theirs = DefaultBoxGenerator([[2], [2, 3]], scales=list(scales), steps=strides)
    (expected,) = theirs(ImageList(torch.zeros(1, 3, *size), [size]), [torch.zeros(1, 1, *grid) for grid in grids])
    boxes, places = DefaultBoxes([[2], [2, 3]], scales, strides)(grids, size)
    torch.testing.assert_close(boxes, expected, atol=1e-4, rtol=1e-5)
    assert places.shape == (len(boxes),)
    assert len(boxes) == 8 * 13 * 4 + 4 * 7 * 6


def test_scales():
    assert linear_scales(3, 0.2, 0.8) == pytest.approx((0.2, 0.5, 0.8, 1.0))
    assert linear_scales(1, 0.2, 0.8) == pytest.approx((0.2, 1.0))


def test_disagreeing_numbers_are_named():
    with pytest.raises(ValueError, match="2 levels of ratios and 2 scales"):
        DefaultBoxes([[2], [2]], (0.1, 0.5))
    with pytest.raises(ValueError, match="1 feature maps; it was built for 2"):
        DefaultBoxes([[2], [2]], (0.1, 0.5, 0.9))([(2, 2)], (16, 16))
