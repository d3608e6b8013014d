import dataclasses

import numpy as np
import pytest
from drawn import COLOURS, DrawnDataset, draw

from vision.data.copy_paste import copy_paste
from vision.data.mosaic import mixup, mosaic, mosaic_regions, random_window
from vision.data.placement import Visibility
from vision.structures import Sample

RULE = Visibility()


class EveryObject:
    """Stands in for a generator that chooses every object."""

    def random(self, count):
        return np.zeros(count)


@pytest.mark.parametrize("seed", range(20))
def test_windows_stay_inside_and_have_the_scale(seed):
    random = np.random.default_rng(seed)
    source, region = (90, 130), (10, 20, 74, 100)
    scale = random.uniform(0.2, 3, 2)
    window = random_window(source, region, tuple(scale), random)
    x0, y0, x1, y1 = window.source
    assert 0 <= x0 < x1 <= 130
    assert 0 <= y0 < y1 <= 90
    a0, b0, a1, b1 = window.destination
    assert 10 <= a0 < a1 <= 74
    assert 20 <= b0 < b1 <= 100
    # rounding moves an edge by half a pixel at most, of the destination or (times the scale) of the source
    assert abs((a1 - a0) - (x1 - x0) * scale[1]) <= 0.5 * max(1, scale[1]) + 1e-6
    assert abs((b1 - b0) - (y1 - y0) * scale[0]) <= 0.5 * max(1, scale[0]) + 1e-6


def test_one_pixel_images_and_extreme_scales():
    random = np.random.default_rng(0)
    for source, scale in (((1, 1), 0.01), ((1, 1), 50.0), ((1000, 2), 0.001), ((3, 3), 100.0)):
        window = random_window(source, (0, 0, 16, 16), (scale, scale), random)
        assert min(window.scale) > 0


def test_mosaic_regions_tile_the_canvas():
    for seed in range(5):
        owner = np.zeros((40, 60), int)
        for x0, y0, x1, y1 in mosaic_regions((40, 60), np.random.default_rng(seed)):
            owner[y0:y1, x0:x1] += 1
        assert (owner == 1).all()


def test_mosaic_holds_all_four():
    full = [draw((50, 50), [[0, 0, 50, 50]], [label], image_id=label) for label in range(4)]
    result = mosaic(full, (80, 100), [(2.0, 2.0)] * 4, np.random.default_rng(0), rule=Visibility(0.0))
    assert sorted(result.target.labels) == [0, 1, 2, 3]
    assert result.target.image_id == 0
    for box, label in zip(result.target.boxes.astype(int), result.target.labels):
        x0, y0, x1, y1 = box
        assert (result.image[y0:y1, x0:x1] == COLOURS[label]).all()
    assert result.target.area.sum() == pytest.approx(80 * 100, rel=0.05)  # the windows cover everything
    with pytest.raises(ValueError, match="expected 4"):
        mosaic(full[:3], (80, 100), [(1.0, 1.0)] * 3, np.random.default_rng(0), rule=RULE)


def test_mixup_blends_pixels_and_joins_objects():
    first, second = draw((8, 8), [[0, 0, 8, 8]], [0]), draw((8, 8), [[0, 0, 4, 8]], [1])
    result = mixup(first, second, 0.25)
    expected = np.rint(0.25 * COLOURS[0].astype(float) + 0.75 * COLOURS[1])
    np.testing.assert_allclose(result.image[0, 0], expected, atol=1)
    assert result.target.labels.tolist() == [0, 1]
    assert result.target.masks.shape == (2, 8, 8)
    assert result.target.semantic is None
    with pytest.raises(ValueError, match="one size"):
        mixup(first, draw((8, 9), [], []), 0.5)


def test_copy_paste_by_hand():
    # base: left half (0, 0, 4, 8) and a corner object; pasted: rows 2..8 of the left half and the whole corner object
    base = draw((8, 8), [[0, 0, 4, 8], [6, 6, 8, 8]], [0, 1])
    other = draw((8, 8), [[0, 2, 4, 8], [5, 5, 8, 8], [4, 0, 8, 2]], [2, 3, 4], crowd=[False, False, True])
    result = copy_paste(base, other, EveryObject(), rule=RULE)
    assert result.target.labels.tolist() == [0, 2, 3]  # 1 is hidden, the crowd is not pasted
    assert result.target.boxes.tolist() == [[0, 0, 4, 2], [0, 2, 4, 8], [5, 5, 8, 8]]
    assert result.target.area.tolist() == [8, 24, 9]
    assert result.target.masks.sum((1, 2)).tolist() == [8, 24, 9]
    assert not result.target.masks.sum(0).max() > 1
    for mask, label in zip(result.target.masks, result.target.labels):
        assert (result.image[mask] == COLOURS[label]).all()
        assert (result.target.semantic[mask] == label).all()


def test_copy_paste_drops_what_is_nearly_hidden_but_no_crowd():
    # 1 of 10 pixels left: below 15 %
    base = draw((1, 12), [[0, 0, 10, 1]], [0])
    other = draw((1, 12), [[1, 0, 12, 1]], [1])
    assert copy_paste(base, other, EveryObject(), rule=RULE).target.labels.tolist() == [1]
    crowd = Sample(base.image, dataclasses.replace(base.target, crowd=np.array([True])))
    result = copy_paste(crowd, other, EveryObject(), rule=RULE)
    assert result.target.crowd.tolist() == [True, False]
    assert result.target.boxes.tolist() == [[0, 0, 1, 1], [1, 0, 12, 1]]


def test_copy_paste_without_objects_or_masks():
    base, empty = draw((8, 8), [[0, 0, 4, 8]], [0]), draw((8, 8), [], [])
    assert copy_paste(base, empty, np.random.default_rng(0), rule=RULE) is base
    assert copy_paste(empty, base, EveryObject(), rule=RULE).target.labels.tolist() == [0]
    with pytest.raises(ValueError, match="masks=True"):
        copy_paste(DrawnDataset(1).sample(0), DrawnDataset(1).sample(0), EveryObject(), rule=RULE)
