import dataclasses

import numpy as np
import pytest
from drawn import COLOURS, DrawnDataset, draw, random_sample
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from vision.data.colour import apply_colour, colour_matrix
from vision.data.cutout import cutout
from vision.data.orientation import flip, quarter_turns, rotate
from vision.data.placement import Visibility, Window, mask_boxes, place
from vision.data.resize import Preprocess
from vision.data.transforms import AugmentConfig, build_augmentation, default_augmentation
from vision.structures import Sample, Target

DATASET = DrawnDataset(10)
RULE = Visibility()


def another(random):
    return DATASET.sample(int(random.integers(len(DATASET))), masks=True, semantic=True)


def check_alignment(sample, coverings=False):
    """Every array tells the same story: pixels' colour, mask, box, label, semantic map."""
    target, (height, width) = sample.target, sample.image.shape[:2]
    assert target.size == (height, width)
    assert target.semantic.shape == (height, width)
    assert target.masks.shape == (len(target), height, width)
    assert ((target.boxes >= 0) & (target.boxes <= [width, height, width, height])).all()
    for mask, box, label in zip(target.masks, target.boxes, target.labels):
        if mask.any():
            np.testing.assert_allclose(mask_boxes(mask[None])[0], box, atol=1.5)
        inside = mask.copy()  # three pixels from its edge, where neighbours' colours do not mix in
        for _ in range(3):
            padded = np.pad(inside, 1)
            inside &= padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
        if inside.any():
            assert (target.semantic[inside] == label).all()
            if not coverings:
                assert np.abs(sample.image[inside].astype(int) - COLOURS[label]).max() <= 3


configs = st.builds(
    AugmentConfig,
    flip_horizontal=st.sampled_from([0, 1]), flip_vertical=st.sampled_from([0, 1]),
    quarter_turns=st.sampled_from([0, 1]), rotate=st.sampled_from([0, 40.0]),
    scale=st.sampled_from([(1.0, 1.0), (0.5, 1.5), (1.5, 2.0)]), aspect=st.sampled_from([1.0, 1.2]),
    mosaic=st.sampled_from([0, 1]), copy_paste=st.sampled_from([0, 1]), keep_objects=st.booleans(),
)  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    spec=configs, mode=st.sampled_from(["letterbox", "stretch", "keep"]), index=st.integers(0, 9),
    seed=st.integers(0, 2**32 - 1), size=st.sampled_from([(64, 64), (57, 91)]),
)  # fmt: skip
def test_everything_stays_aligned(spec, mode, index, seed, size):
    augmentation = build_augmentation(spec, Preprocess(size, mode), "panoptic")
    sample = DATASET.sample(index, masks=True, semantic=True)
    result = augmentation(sample, np.random.default_rng(seed), another)
    assert result.image.shape == (*size, 3)
    assert result.target.image_id == sample.target.image_id
    check_alignment(result)


@settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate])
@given(spec=configs, index=st.integers(0, 9), seed=st.integers(0, 2**32 - 1))
def test_boxes_without_masks_are_where_the_object_is(spec, index, seed):
    # the same seed with and without masks: what a box encloses does not depend on what else is known
    spec = dataclasses.replace(spec, copy_paste=0, rotate=0.0)
    augmentation = build_augmentation(spec, Preprocess((64, 64)), "detection")
    with_masks = augmentation(DATASET.sample(index, True, True), np.random.default_rng(seed), another)
    without = augmentation(
        DATASET.sample(index), np.random.default_rng(seed),
        lambda random: DATASET.sample(int(random.integers(len(DATASET)))),
    )  # fmt: skip
    np.testing.assert_array_equal(with_masks.image, without.image)
    assert without.target.masks is None
    assert without.target.semantic is None
    # a box knows nothing of what an object's visible part looks like, but never misses any of it
    for box, label in zip(with_masks.target.boxes, with_masks.target.labels):
        same = without.target.boxes[without.target.labels == label]
        assert ((same[:, :2] <= box[:2] + 1) & (same[:, 2:] >= box[2:] - 1)).all(1).any()


def test_one_seed_one_result():
    spec = dataclasses.replace(default_augmentation("instance"), mosaic=0.5, blur=0.5, cutout=0.5, rotate=10.0)
    augmentation = build_augmentation(spec, Preprocess(64), "instance")
    sample = DATASET.sample(3, True)
    images = [augmentation(sample, np.random.default_rng(seed), another).image for seed in (5, 5, 6)]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()


def test_source_arrays_are_left_alone():
    spec = AugmentConfig(flip_horizontal=1, mosaic=1, brightness=0.5, cutout=1, copy_paste=1)
    sample = DATASET.sample(3, True, True)
    before = sample.image.copy(), sample.target.boxes.copy(), sample.target.masks.copy()
    build_augmentation(spec, Preprocess(64), "instance")(sample, np.random.default_rng(0), another)
    for array, was in zip((sample.image, sample.target.boxes, sample.target.masks), before):
        np.testing.assert_array_equal(array, was)


def test_flip_and_turns_by_hand():
    # in 10 x 20 (h x w) the box (2, 1, 5, 4): mirrored x: 20 - 5 .. 20 - 2; anticlockwise: (y0, 20 - x1, y1, 20 - x0)
    sample = draw((10, 20), [[2, 1, 5, 4]], [1])
    assert flip(sample, True).target.boxes.tolist() == [[15, 1, 18, 4]]
    assert flip(sample, False, True).target.boxes.tolist() == [[2, 6, 5, 9]]
    turned = quarter_turns(sample, 1)
    assert turned.target.boxes.tolist() == [[1, 15, 4, 18]]
    assert turned.image.shape == (20, 10, 3)
    for turns in range(5):
        check_alignment(quarter_turns(random_sample(turns), turns))
        np.testing.assert_array_equal(quarter_turns(sample, turns).image, np.rot90(sample.image, turns))


def test_rotation_turns_boxes_as_the_pixels():
    # a box of 20 x 10 turned by 90 degrees about the centre (50, 50): (60, 45, 80, 55) -> (45, 20, 55, 40)
    sample = draw((100, 100), [[60, 45, 80, 55]], [0])
    boxes_only = Sample(sample.image, dataclasses.replace(sample.target, masks=None))
    for each in (sample, boxes_only):
        result = rotate(each, 90.0, 114, RULE)
        np.testing.assert_allclose(result.target.boxes, [[45, 20, 55, 40]], atol=1e-4)
        assert (result.image[22:38, 47:53] == COLOURS[0]).all()


def test_objects_that_leave_the_crop():
    # the window shows x >= 50 of 0..100; boxes with 10 %, 50 %, 100 % in it, a crowd with 10 %, one outside
    boxes = [[5, 0, 55, 20], [30, 0, 70, 20], [60, 0, 80, 20], [5, 30, 55, 50], [0, 0, 49, 9]]
    target = Target(boxes, [0, 1, 2, 3, 4], crowd=[False, False, False, True, False], area=[900, 700, 300, 800, 441],
                    difficult=[False, True, False, False, False], size=(100, 100))  # fmt: skip
    placed = place(target, Window((50, 0, 100, 50), (0, 0, 100, 100)), (100, 100), rule=Visibility(0.15))
    assert placed.labels.tolist() == [1, 2, 3]
    assert placed.crowd.tolist() == [False, False, True]
    assert placed.difficult.tolist() == [True, False, False]
    assert placed.boxes.tolist() == [[0, 0, 40, 40], [20, 0, 60, 40], [0, 60, 10, 100]]
    # twice as large both ways: 4 times the share of the area that is seen: 700 / 2, 300, 800 / 10
    np.testing.assert_allclose(placed.area, [1400, 1200, 320])


def test_tiny_and_degenerate_boxes():
    target = Target([[10, 10, 11, 11], [10, 10, 10, 30], [10, 10, 13, 13]], [0, 1, 2], size=(100, 100))
    same = place(target, Window((0, 0, 100, 100), (0, 0, 100, 100)), (100, 100), rule=RULE)
    assert same.labels.tolist() == [0, 2]  # one pixel is an object, no area is none
    half = place(target, Window((0, 0, 100, 100), (0, 0, 50, 50)), (50, 50), rule=RULE)
    assert half.labels.tolist() == [2]  # half a pixel is not


def test_crops_show_an_object_where_they_can():
    sample = draw((200, 200), [[5, 5, 25, 25]], [0])
    spec = AugmentConfig(scale=(3.0, 3.0))
    shown = {}
    for keep in (True, False):
        augmentation = build_augmentation(dataclasses.replace(spec, keep_objects=keep), Preprocess(100))
        shown[keep] = sum(len(augmentation(sample, np.random.default_rng(seed)).target) for seed in range(40))
    assert shown[True] == 40 > 4 * shown[False]


def test_grey_image_and_no_objects():
    grey = Sample(np.full((33, 47, 3), 99, np.uint8), Target(image_id="g", size=(33, 47)))
    spec = dataclasses.replace(default_augmentation("detection"), rotate=5.0, cutout=1.0, blur=1.0, mosaic=1.0)
    result = build_augmentation(spec, Preprocess(32))(grey, np.random.default_rng(0), lambda random: grey)
    assert result.image.shape == (32, 32, 3)
    assert result.target.boxes.shape == (0, 4)
    saturated = apply_colour(grey.image, colour_matrix(np.full(3, 99.0), saturation=1.5, hue=0.1))
    assert np.abs(saturated.astype(int) - 99).max() <= 1  # grey has neither hue nor saturation


def test_colour_by_hand():
    image = np.array([[[100, 50, 200], [200, 200, 200]]], np.uint8)
    mean = np.array([100.0, 100.0, 100.0])
    # brightness 0.5 halves; contrast 1.5 about 100: 100, 25, 250 and 250; saturation 0: its luma
    assert apply_colour(image, colour_matrix(mean, brightness=0.5))[0].tolist() == [[50, 25, 100], [100, 100, 100]]
    assert apply_colour(image, colour_matrix(mean, contrast=1.5))[0].tolist() == [[100, 25, 250], [250, 250, 250]]
    assert apply_colour(image, colour_matrix(mean, saturation=0.0))[0].tolist() == [[82, 82, 82], [200, 200, 200]]
    turned = apply_colour(image, colour_matrix(mean, hue=1.0))
    assert np.abs(turned.astype(int) - image).max() <= 1  # a full circle


def test_cutout_drops_what_it_hides():
    sample = draw((100, 100), [[0, 0, 100, 100], [40, 40, 44, 44]], [0, 1])
    # one hole of the whole image's size hides all but crowds
    all_crowd = dataclasses.replace(sample.target, crowd=np.array([True, False]))
    found = set()
    for seed in range(40):
        result = cutout(Sample(sample.image, all_crowd), np.random.default_rng(seed), holes=3, largest=1.0, fill=9,
                        rule=RULE)  # fmt: skip
        hidden = (result.image[40:44, 40:44] == 9).all(-1).mean()
        assert (1 in result.target.labels) == (1 - hidden >= RULE.fraction)
        assert 0 in result.target.labels
        found.add(len(result.target))
    assert found == {1, 2}


def test_refusals():
    for bad in ({"mosaic": 1.5}, {"scale": (2, 1)}, {"hue": -0.1}, {"aspect": 0.5}, {"cutout_holes": 0},
                {"extra": ({"p": 1},)}):  # fmt: skip
        with pytest.raises(ValueError, match="AugmentConfig"):
            AugmentConfig(**bad)
    for spec, task in ((AugmentConfig(copy_paste=1), "detection"), (AugmentConfig(mixup=1), "semantic")):
        with pytest.raises(ValueError, match="set it to 0"):
            build_augmentation(spec, Preprocess(32), task)
    with pytest.raises(ValueError, match="'Fogg' is not a transform"):
        build_augmentation(AugmentConfig(extra=({"name": "Fogg"},)), Preprocess(32))
    cropping = AugmentConfig(extra=({"name": "CenterCrop", "height": 8, "width": 8},))
    with pytest.raises(ValueError, match="keep the size"):
        build_augmentation(cropping, Preprocess(32))(random_sample(0), np.random.default_rng(0))


@pytest.mark.parametrize("name", ["HorizontalFlip", "Affine", "GridDistortion", "RandomBrightnessContrast"])
@pytest.mark.parametrize("seed", [0, 1])
def test_extra_transforms_keep_everything_aligned(name, seed):
    options = {"Affine": {"scale": (0.6, 1.4), "rotate": (-30, 30)}}.get(name, {})
    spec = AugmentConfig(extra=({"name": name, "p": 1.0, **options},))
    augmentation = build_augmentation(spec, Preprocess(64), "panoptic")
    sample = random_sample(seed + 3)
    results = [augmentation(sample, np.random.default_rng(seed)) for _ in range(2)]
    np.testing.assert_array_equal(results[0].image, results[1].image)
    np.testing.assert_array_equal(results[0].target.boxes, results[1].target.boxes)
    check_alignment(results[0], coverings=name == "RandomBrightnessContrast")
    if name == "Affine":
        # nothing is known of what comes in from outside, and the letterbox rows stay unknown
        assert (results[0].target.semantic == 255).any()


def test_extra_transforms_keep_what_little_is_seen_of_a_crowd():
    boxes = np.array([[0, 0, 64, 10], [0, 0, 32, 10], [0, 20, 64, 40]], np.float32)
    target = Target(boxes, np.array([0, 1, 2]), crowd=np.array([True, False, False]), size=(64, 64))
    extra = ({"name": "Affine", "translate_px": {"x": 0, "y": -9}, "p": 1.0},)
    augmentation = build_augmentation(AugmentConfig(extra=extra), Preprocess(64, "keep"))
    found = augmentation(Sample(np.zeros((64, 64, 3), np.uint8), target), np.random.default_rng(0)).target
    rows = sorted(zip(found.labels.tolist(), found.crowd.tolist(), found.boxes.round().tolist()))
    assert rows == [(0, True, [0, 0, 64, 1]), (2, False, [0, 11, 64, 31])]


@pytest.mark.parametrize("task", ["detection", "instance", "semantic", "panoptic"])
def test_defaults_fit_their_task(task):
    augmentation = build_augmentation(default_augmentation(task), Preprocess(48), task)
    sample = DATASET.sample(2, masks=task in ("instance", "panoptic"), semantic=task in ("semantic", "panoptic"))
    result = augmentation(sample, np.random.default_rng(0))
    assert result.image.shape == (48, 48, 3)
    assert AugmentConfig(**default_augmentation(task).to_dict()) == default_augmentation(task)
