import numpy as np
import pytest
import torch
from drawn import draw, random_sample

from vision.data.placement import resample
from vision.data.resize import Placement, Preprocess, restore_boxes, restore_detections, restore_segmentation
from vision.structures import Detections, Segmentation


def test_letterbox_puts_the_scaled_image_at_the_top_left():
    # 60 x 80 into 32 x 32: factor min(32 / 60, 32 / 80) = 0.4, content 24 x 32, eight rows of grey below
    sample = random_sample(0)
    image, placement, target = Preprocess(32, pad=7).apply(sample.image, sample.target)
    assert image.shape == (32, 32, 3)
    assert (image[24:] == 7).all()
    assert placement == Placement((0.4, 0.4), (0.0, 0.0), (60, 80), (24, 32))
    np.testing.assert_allclose(target.boxes, sample.target.boxes * 0.4, atol=1e-4)
    np.testing.assert_allclose(target.area, sample.target.area * 0.16)
    assert target.masks.shape[1:] == target.semantic.shape == target.size == (32, 32)
    assert (target.semantic[24:] == 255).all()
    assert not target.masks[:, 24:].any()


@pytest.mark.parametrize(
    ("mode", "shape"), [("stretch", (40, 30, 3)), ("keep", (60, 80, 3)), ("letterbox", (40, 30, 3))]
)
def test_modes(mode, shape):
    sample = random_sample(1)
    image, placement, target = Preprocess((40, 30), mode).apply(sample.image, sample.target)
    assert image.shape == shape
    content = {"stretch": (40, 30), "keep": (60, 80), "letterbox": (22, 30)}[mode]  # 60 * 30 / 80 = 22.5 -> 22
    assert placement.size == content
    factors = np.array([content[1] / 80, content[0] / 60] * 2)
    np.testing.assert_allclose(target.boxes, sample.target.boxes * factors, atol=1e-4)


def test_tight_letterbox_pads_to_a_multiple_of_32_only():
    image, placement, _ = Preprocess(64).apply(random_sample(0).image, tight=True)
    assert image.shape == (64, 64, 3)  # 48 rows of content round up to 64
    image, placement, _ = Preprocess(128).apply(random_sample(0, (20, 80)).image, tight=True)
    assert image.shape == (32, 128, 3)
    assert placement.size == (32, 128)


def test_no_object_is_dropped_however_small():
    sample = draw((100, 100), [[3, 4, 4, 5], [10, 10, 90, 90]], [0, 1])
    _, _, target = Preprocess(10).apply(sample.image, sample.target)
    np.testing.assert_allclose(target.boxes[0], [0.3, 0.4, 0.4, 0.5], atol=1e-6)


def test_dict_round_trip_and_refusals():
    preprocess = Preprocess((96, 128), "stretch", 0)
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess
    for bad in ({"size": (0, 3)}, {"size": 32, "mode": "crop"}, {"size": 32, "pad": 256}):
        with pytest.raises(ValueError, match="expected"):
            Preprocess(**bad)
    with pytest.raises(ValueError, match="unknown colour"):
        Preprocess.from_dict({"size": 32, "colour": "grey"})


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 200), (480, 640)])
def test_resample_keeps_the_mean_and_the_type(size):
    image = np.random.default_rng(0).integers(0, 256, (241, 333, 3), np.uint8)
    small = resample(image, size)
    assert small.shape == (*size, 3)
    assert small.dtype == np.uint8
    if min(size) > 10:
        assert abs(float(small.mean()) - float(image.mean())) < 3


def test_resample_does_not_alias():
    # one white column in eight: whoever samples every tenth column sees stripes, the mean is 255 / 8 = 32
    image = np.zeros((80, 800), np.uint8)
    image[:, ::8] = 255
    assert abs(resample(image, (8, 80)).astype(int) - 32).max() < 20


@pytest.mark.parametrize("mode", ["letterbox", "stretch", "keep"])
@pytest.mark.parametrize("source", [(60, 80), (81, 37), (500, 300)])
def test_boxes_and_masks_come_back_to_the_source(mode, source):
    sample = random_sample(3, source, 4)
    _, placement, target = Preprocess((128, 96), mode).apply(sample.image, sample.target)
    found = Detections(
        torch.from_numpy(target.boxes), torch.ones(len(target)), torch.from_numpy(target.labels),
        torch.from_numpy(target.masks),
    )  # fmt: skip
    restored = restore_detections(found, placement.geometry())
    np.testing.assert_allclose(restored.boxes, sample.target.boxes, atol=1e-2)
    assert restored.masks.shape == (len(target), *source)
    truth = torch.from_numpy(sample.target.masks)
    overlap = (restored.masks & truth).sum((1, 2)) / (restored.masks | truth).sum((1, 2))
    assert overlap.min() > (0.99 if mode == "keep" else 0.75)


def test_restored_boxes_are_clipped_and_none_is_fine():
    geometry = Placement((0.5, 0.5), (4.0, 2.0), (40, 60), (24, 34)).geometry()
    # (x - 4) / 0.5, (y - 2) / 0.5, then into 60 x 40
    boxes = torch.tensor([[0.0, 0.0, 9.0, 12.0], [20.0, 10.0, 50.0, 50.0]])
    assert restore_boxes(boxes, geometry).tolist() == [[0, 0, 10, 20], [32, 16, 60, 40]]
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), torch.zeros(0, 24, 34, dtype=bool))
    assert restore_detections(empty, geometry).masks.shape == (0, 40, 60)


@pytest.mark.parametrize("with_scores", [False, True])
def test_segmentation_comes_back_to_the_source(with_scores):
    sample = random_sample(5, (90, 120), 3)
    _, placement, target = Preprocess(96).apply(sample.image, sample.target)
    labels = torch.from_numpy(target.semantic).long()
    # as a model gives it: cropped to the content
    labels = labels[: placement.size[0], : placement.size[1]]
    scores = torch.nn.functional.one_hot(labels, 6).movedim(-1, 0).float() if with_scores else None
    restored = restore_segmentation(Segmentation(labels, scores), placement.geometry())
    assert restored.labels.shape == (90, 120)
    assert (restored.labels == torch.from_numpy(sample.target.semantic)).float().mean() > 0.95
    assert (restored.scores is not None) == with_scores


@pytest.mark.parametrize(
    ("source", "expected"),
    [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((300, 900), (444, 1333)), ((1000, 1000), (800, 800))],
)
def test_shorter_side_follows_the_image_whichever_way_round(source, expected):
    # 800 on the shorter side, unless the longer one would pass 1333: 300 * 1333 / 900 = 444.3
    preprocess = Preprocess((800, 1333), "shorter_side")
    assert preprocess.content_size(source) == expected
    image, placement, _ = preprocess.apply(np.zeros((*source, 3), np.uint8))
    assert image.shape[:2] == expected
    assert placement.size == expected
