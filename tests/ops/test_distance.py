"""The distance transform against scipy, brute force and hand-derived values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vision.ops.distance import (
    distance_transform,
    distances_at,
    float_distance_transform,
    squared_distance_transform,
)


def test_hand_derived(device):
    # one False pixel at row 0, column 0: distance = sqrt(row^2 + column^2)
    mask = torch.ones(4, 5, dtype=torch.bool, device=device)
    mask[0, 0] = False
    distances = distance_transform(mask)
    assert distances[0, 0] == 0
    assert distances[3, 4] == 5  # 3-4-5 triangle
    assert distances[2, 1].item() == math.sqrt(5)
    assert distances.device.type == device.type


def test_spacing_scales_each_axis():
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[0, 0] = False
    # rows are 2 apart, columns 0.5: (2 * 2)^2 + (3 * 0.5)^2 = 16 + 2.25
    assert squared_distance_transform(mask, (2.0, 0.5))[2, 3].item() == 18.25


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 17), st.integers(1, 23), st.floats(0.02, 0.98), st.integers(0, 10**6))
def test_equals_scipy_in_two_dimensions(height, width, share, seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((3, height, width)) < share
    masks[:, rng.integers(height), rng.integers(width)] = False  # scipy's answer without a False pixel is arbitrary
    found = distance_transform(torch.from_numpy(masks)).numpy()
    for mask, distances in zip(masks, found):
        np.testing.assert_array_equal(distances, ndimage.distance_transform_edt(mask))


def test_equals_scipy_in_three_dimensions_with_spacing(device):
    rng = np.random.default_rng(0)
    mask = rng.random((9, 14, 11)) < 0.9
    found = distance_transform(torch.from_numpy(mask).to(device), (2.5, 1.0, 0.7)).cpu().numpy()
    np.testing.assert_allclose(found, ndimage.distance_transform_edt(mask, (2.5, 1.0, 0.7)), rtol=1e-14)


def test_large_distances():
    mask = torch.ones(150, 90, dtype=torch.bool)
    mask[149, 3] = False
    np.testing.assert_array_equal(distance_transform(mask).numpy(), ndimage.distance_transform_edt(mask.numpy()))


def test_nothing_false_is_infinitely_far_and_nothing_true_is_zero():
    assert distance_transform(torch.ones(2, 3, 4, dtype=torch.bool)).isinf().all()
    assert (distance_transform(torch.zeros(3, 4, dtype=torch.bool)) == 0).all()
    assert distance_transform(torch.zeros(0, 3, 4, dtype=torch.bool)).shape == (0, 3, 4)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (40, 1), (37, 53), (300, 400)])
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_float32_for_losses(size, share, device):
    rng = np.random.default_rng(0)
    masks = torch.from_numpy(rng.random((3, *size)) < share)
    masks[0], masks[1] = True, False  # nothing False: infinitely far
    found = float_distance_transform(masks.to(device)).cpu()
    assert found.dtype == torch.float32
    assert torch.equal(found, distance_transform(masks).float())


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 0.5), (2.5, 0.7), (1.0, 1.0, 1.0), (2.5, 1.0, 0.7)])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_at_places_alone(spacing, share, device):
    rng = np.random.default_rng(0)
    mask = torch.from_numpy(rng.random((37, 53) if len(spacing) == 2 else (9, 14, 11)) < share).to(device)
    places = torch.from_numpy(rng.integers(0, mask.shape, (200, mask.ndim))).to(device)
    expected = distance_transform(mask, spacing)[tuple(places.T)]
    torch.testing.assert_close(distances_at(places, mask, spacing), expected, rtol=1e-15, atol=0)
    assert distances_at(places[:0], mask, spacing).shape == (0,)
    assert distances_at(places, torch.ones_like(mask), spacing).isinf().all()


def test_at_far_places_is_exact():
    # OpenCV's own distances, squared and rounded, are off by up to 3 here
    mask = torch.ones(2000, 2048, dtype=torch.bool)
    mask[0, 0] = mask[3, 1900] = False
    places = torch.from_numpy(np.random.default_rng(0).integers(0, mask.shape, (500, 2)))
    squares = torch.stack([(places - torch.tensor(one)).square().sum(1) for one in ([0, 0], [3, 1900])]).amin(0)
    np.testing.assert_array_equal(distances_at(places, mask).numpy(), np.sqrt(squares.numpy()))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="3 spacings"):
        distance_transform(torch.ones(3, 4, dtype=torch.bool), (1, 1, 1))
    with pytest.raises(ValueError, match="above 0"):
        distance_transform(torch.ones(3, 4, dtype=torch.bool), (0, 1))
