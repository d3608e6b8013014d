"""Packed annotations and the Dataset on top: exact polygons, texts, pickling, and errors about what is not there."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import coco_folder, mask_folder, save_image, voc_folder
from PIL import Image
from torch.utils.data import DataLoader

from vision.data import DataError, open_dataset
from vision.data.pack import AnnotationsBuilder, PackedText, pack_coordinates
from vision.data.segment import compressed_counts


@given(st.lists(st.text(max_size=6), max_size=6))
def test_packed_texts_come_back(texts):
    packed = PackedText(texts)
    assert [packed[k] for k in range(len(packed))] == texts


def test_packed_texts_have_an_end():
    packed = PackedText(["a", "/images/ü/Straße 1.jpg"])
    assert packed[1] == "/images/ü/Straße 1.jpg"
    for index in (2, -1):
        with pytest.raises(IndexError):
            packed[index]


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.lists(st.integers(0, 10**6), min_size=6, max_size=12), max_size=3), max_size=4), st.booleans()
)
def test_polygons_come_back_to_the_last_bit(objects, thirds):
    # two decimals, as COCO writes them, are kept as integers: k / 100 is the double that "k/100" parses to
    objects = [[np.array(ring) / (3.0 if thirds else 100.0) for ring in rings] for rings in objects]
    builder = AnnotationsBuilder(lambda image, place: (image, str(place)))
    builder.add_image("a.jpg", "a", (100, 100))
    for place, rings in enumerate(objects):
        builder.add_object((0, 0, 9, 9), 0, place, segment=rings or None)
    annotations = builder.finish()
    assert thirds or annotations.coordinates.dtype == np.int32
    assert ("instance" in annotations.tasks) == (len(objects) > 0 and all(objects))
    lacking = [str(place) for place, rings in enumerate(objects) if not rings]
    assert [problem.where for problem in builder.problems] == (lacking[:1] if any(objects) else [])
    for row, rings in enumerate(objects):
        for ring, again in zip(rings, annotations.segment(row) or [], strict=True):
            np.testing.assert_array_equal(ring, again)


def test_polygons_of_other_fractions_are_floats():
    assert pack_coordinates(np.array([1 / 3, 0, 1, 1, 0, 1])).dtype == np.float64
    assert pack_coordinates(np.array([0.29, 0.57, 1.15])).tolist() == [29, 57, 115]


@pytest.mark.parametrize("seed", range(4))
def test_compressed_counts_of_pycocotools_are_accepted_and_cut_ones_are_not(seed):
    from pycocotools import mask as coco_mask

    mask = np.random.default_rng(seed).random((37, 41)) < (0.02, 0.3, 0.9, 0.5)[seed]
    counts = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]
    assert compressed_counts({"size": [37, 41], "counts": counts.decode()}, (37, 41)) == counts
    for wrong in (counts[:-1], counts + b"1", b"", b"~~~"):
        with pytest.raises(ValueError, match="add up"):
            compressed_counts({"size": [37, 41], "counts": wrong.decode()}, (37, 41))


def test_a_builder_without_images_or_objects():
    builder = AnnotationsBuilder(lambda image, place: (image, ""))
    assert len(builder.finish().boxes) == 0
    builder.add_image("a.jpg", "a", (4, 5))
    annotations = builder.finish()
    assert (annotations.sizes.tolist(), annotations.start.tolist()) == ([[4, 5]], [0, 0])


def test_a_dataset_survives_pickling(tmp_path):
    dataset = open_dataset(coco_folder(tmp_path))
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again.target(0, masks=True).masks, dataset.target(0, masks=True).masks)
    assert (again.classes, again.tasks, again.image_id(1)) == (dataset.classes, dataset.tasks, 9)


def test_sample_is_the_image_and_its_target(tmp_path):
    dataset = open_dataset(coco_folder(tmp_path))
    sample = dataset.sample(0, masks=True)
    np.testing.assert_array_equal(sample.image, np.array(Image.open(tmp_path / "images" / "train" / "a.png")))
    assert (sample.target.size, sample.target.image_id, len(sample.target.masks)) == ((20, 30), 7, 2)


def test_images_are_turned_as_annotated(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    voc_folder(tmp_path, {"a": [("dog", 1, 1, 5, 5)], "b": [("dog", 1, 1, 5, 5)]})
    save_image(tmp_path / "JPEGImages" / "a.jpg", (20, 30), exif=exif)  # annotated as stored
    save_image(tmp_path / "JPEGImages" / "b.jpg", (30, 20), exif=exif)  # annotated upright
    dataset = open_dataset(tmp_path)
    assert dataset.image(0).shape == dataset.image(1).shape == (20, 30, 3)


def test_an_image_of_another_size_is_refused(tmp_path):
    voc_folder(tmp_path, {"a": [("dog", 1, 1, 5, 5)]})
    save_image(tmp_path / "JPEGImages" / "a.jpg", (25, 30))
    with pytest.raises(DataError, match=r"a\.jpg: an image of 30x25 pixels; expected 30x20"):
        open_dataset(tmp_path).image(0)


def test_what_a_data_set_does_not_have(tmp_path):
    path = coco_folder(tmp_path)
    dataset = open_dataset(path)
    with pytest.raises(ValueError, match="no semantic masks"):
        dataset.target(0, semantic=True)
    with pytest.raises(ValueError, match="no panoptic annotations"):
        dataset.panoptic(0)
    with pytest.raises(DataError, match="annotations for detection, instance; the model needs panoptic"):
        open_dataset(path, task="panoptic")
    with pytest.raises(DataError, match="task 'pose'; expected one of detection"):
        open_dataset(path, task="pose")


@pytest.mark.parametrize("name", ["none", "a.txt", "a.json", "folder"])
def test_what_is_no_data_set(tmp_path, name):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=name):
        open_dataset(tmp_path / name)


def test_shapes_by_name():
    dataset = open_dataset("shapes:count=15,size=64,seed=5", "val")  # a fifth of the training images
    assert (len(dataset), dataset.size(0), dataset.split) == (3, (64, 64), "val")
    assert open_dataset("shapes:count=1,size=64", task="semantic").classes.names[0] == "background"


@pytest.mark.parametrize(
    ("data", "task", "fields"),
    [
        ("coco", None, {"masks"}),
        ("coco", "detection", set()),
        ("coco", "instance", {"masks"}),
        ("coco", "semantic", {"semantic"}),
        ("coco", "multilabel", {"masks"}),
        ("masks", None, {"semantic"}),
        ("masks", "multilabel", {"semantic"}),
        ("shapes:count=2,size=64", None, {"masks"}),
        ("shapes:count=2,size=64", "detection", set()),
        ("shapes:count=2,size=64", "semantic", {"semantic"}),
    ],
)
def test_torch_loads_what_the_task_needs(tmp_path, data, task, fields):
    if data == "coco":
        data = coco_folder(tmp_path)
    elif data == "masks":
        data = mask_folder(tmp_path, dict.fromkeys("ab", np.zeros((6, 8), np.uint8)), ["sky"])
    dataset = open_dataset(data, task=task)
    ((first, second),) = DataLoader(dataset, batch_size=2, collate_fn=list)
    for sample, index in ((first, 0), (second, 1), (dataset[-1], 1)):
        assert {name for name in ("masks", "semantic") if getattr(sample.target, name) is not None} == fields
        np.testing.assert_array_equal(sample.image, dataset.image(index))
    assert len(list(dataset)) == 2
    with pytest.raises(IndexError):
        dataset[2]
