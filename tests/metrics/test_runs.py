"""Runs of masks against pycocotools and plain counting."""

import numpy as np
import pytest
import torch
from coco_oracle import run_lengths
from pycocotools import mask as coco_mask

from vision.metrics.run_reading import runs_from_bitmaps, runs_from_rle
from vision.metrics.runs import intersections


def random_masks(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    masks = rng.random((count, height, width)) < rng.random((count, 1, 1))
    masks[0], masks[1] = False, True
    return masks


def filled(runs):
    return np.array(filled_each(runs))


def filled_each(runs):
    """Bitmaps again, pixel by pixel."""
    images, first = [], 0
    for number, (height, width) in zip(runs.count.tolist(), runs.size.tolist()):
        image = np.zeros((height, width), bool)
        for i in range(first, first + number):
            image[runs.top[i] : runs.bottom[i], runs.column[i]] = True
        images.append(image)
        first += number
    return images


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (16, 24), (33, 70)])
@pytest.mark.parametrize("compressed", [True, False])
def test_bitmaps_and_run_lengths_come_back(height, width, compressed, device):
    masks = random_masks(6, height, width)
    bitmaps = torch.from_numpy(masks).to(device)
    encoded = [run_lengths(mask) for mask in masks]
    if compressed:
        runs = runs_from_rle(
            [{**one, "counts": one["counts"].decode()} if i % 2 else one for i, one in enumerate(encoded)]
        )
    else:
        runs = runs_from_bitmaps(bitmaps)
    np.testing.assert_array_equal(filled(runs.to("cpu")), masks)
    assert runs.area().tolist() == masks.sum((1, 2)).tolist()
    np.testing.assert_array_equal(runs.boxes().cpu().numpy(), coco_mask.toBbox(encoded))


def test_long_runs_need_several_characters():
    mask = np.zeros((900, 1100), bool)
    mask[1:, 3:1000] = True
    mask[5, 5:800] = False
    runs = runs_from_rle([run_lengths(mask), run_lengths(~mask)])
    assert runs.area().tolist() == [mask.sum(), (~mask).sum()]
    np.testing.assert_array_equal(filled(runs)[0], mask)


def test_uncompressed_lists_and_strings_mix():
    runs = runs_from_rle([{"size": [2, 3], "counts": [0, 2, 4]}, run_lengths(np.eye(3, dtype=bool))])
    assert runs.area().tolist() == [2, 3]
    assert runs.boxes().tolist() == [[0, 0, 1, 2], [0, 0, 3, 3]]
    assert len(runs_from_rle([])) == 0
    assert len(runs_from_bitmaps(torch.zeros(0, 4, 4))) == 0


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1, 6], r"mask 1: run lengths cover 7 pixels, but its size \[2, 3\] has 6"),
        ([1, 3], "mask 1: run lengths cover 4 pixels"),
        ([], "mask 1: run lengths cover 0 pixels"),
        ([3, -1, 4], "none negative"),
        ([8, 1, -3], "none negative"),
        ("", "mask 1: run lengths cover 0 pixels"),
        ("!!", "mask 1: counts '!!'; expected COCO's compressed run lengths"),
        (b"1\xff4", "mask 1: counts"),
        ("0\u20ac", "mask 1: counts"),
        ("15o", "mask 1: counts '15o'"),  # "o" says that more digits follow
    ],
)
def test_lengths_that_do_not_cover_the_image_are_refused(counts, message):
    whole = {"size": [2, 3], "counts": [0, 6]}
    for other in (whole, run_lengths(np.ones((2, 3), bool))):
        with pytest.raises(ValueError, match=message):
            runs_from_rle([other, {"size": [2, 3], "counts": counts}, whole])


def test_padded_bitmaps_keep_their_own_size():
    masks = random_masks(4, 9, 8)
    masks[:2, 6:], masks[:2, :, 5:] = False, False
    sizes = torch.tensor([[6, 5], [6, 5], [9, 8], [9, 8]])
    runs = runs_from_bitmaps(torch.from_numpy(masks), sizes)
    back = filled_each(runs)
    assert all((image == mask[: len(image), : image.shape[1]]).all() for image, mask in zip(back, masks))
    assert [image.shape for image in back] == [tuple(size) for size in sizes.tolist()]


def test_intersections_equal_counting(device):
    masks = random_masks(7, 19, 23, seed=1)
    first, second = (a.ravel() for a in np.meshgrid(np.arange(7), np.arange(7)))
    runs = runs_from_bitmaps(torch.from_numpy(masks).to(device))
    pairs = (torch.from_numpy(first).to(device), torch.from_numpy(second).to(device))
    expected = [(masks[i] & masks[j]).sum() for i, j in zip(first, second)]
    assert intersections(runs, runs, *pairs).tolist() == expected
    other = runs_from_bitmaps(torch.zeros(2, 19, 23, device=device))
    assert intersections(other, runs, pairs[0] % 2, pairs[1]).sum() == 0
    assert intersections(runs, other, pairs[0], pairs[1] % 2).sum() == 0
    chosen = runs.select(torch.tensor([3, 0, 3], device=device))
    assert chosen.area().tolist() == masks[[3, 0, 3]].sum((1, 2)).tolist()
