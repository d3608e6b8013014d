"""What networks without padding need: margins, mirrored borders, centre crops."""

import pytest
import torch
import torch.nn.functional as F

from vision.ops.padding import centre_crop, mirror, valid_margins


def valid_size(length, depth):
    """What is left of a side after a U-Net with valid convolutions; None where a pooling meets an odd side."""
    for _ in range(depth):
        length -= 4
        if length % 2 or length <= 0:
            return None
        length //= 2
    length -= 4
    for _ in range(depth):
        length = 2 * length - 4
    return length


def test_margins_of_the_papers_network():
    # figure 1 of arXiv:1505.04597: 572 pixels in, 388 out
    assert valid_size(572, 4) == 388
    assert valid_margins(388, 4) == (92, 92)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 37, 64, 389])
def test_margins_give_at_least_the_length_and_no_step_too_many(length, depth):
    before, after = valid_margins(length, depth)
    padded = before + length + after
    out = valid_size(padded, depth)
    assert out is not None
    assert length <= out < length + 2**depth
    assert before == (padded - out) // 2  # the output is the middle of the input: its first pixel is the image's first


def test_mirror_is_reflection_and_repeats_it_when_the_margin_is_wide():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert torch.equal(mirror(x, (1, 2, 3, 0)), F.pad(x, (3, 0, 1, 2), mode="reflect"))
    row = torch.arange(3.0).view(1, 1, 1, 3)
    # 0 1 2 mirrored without repeating its ends: ... 2 1 | 0 1 2 | 1 0 1 2 ...
    assert mirror(row, (0, 0, 2, 4)).flatten().tolist() == [2, 1, 0, 1, 2, 1, 0, 1, 2]
    assert mirror(torch.ones(1, 1, 1, 1), (2, 2, 2, 2)).shape == (1, 1, 5, 5)


def test_centre_crop_takes_the_middle():
    x = torch.arange(25).view(1, 1, 5, 5)
    assert centre_crop(x, (1, 3)).flatten().tolist() == [11, 12, 13]
