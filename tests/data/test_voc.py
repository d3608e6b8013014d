"""Pascal VOC: corners from 1, flags, palette masks, and XML from strangers."""

import numpy as np
import pytest
from layouts import save_image, voc_folder, voc_xml
from PIL import Image

from vision.data import DataError, open_dataset
from vision.data.check import check_dataset
from vision.data.voc import VOC_CLASSES


def test_corners_count_from_one(tmp_path):
    voc_folder(tmp_path, {"a": [("dog", 1, 1, 30, 20), ("cat", 3, 4, 5, 6, True)], "b": []})
    dataset = open_dataset(tmp_path)
    assert dataset.classes.names == ("cat", "dog")
    target = dataset.target(0)
    assert target.boxes.tolist() == [[0, 0, 30, 20], [2, 3, 5, 6]]  # the first covers the whole image
    assert target.labels.tolist() == [1, 0]
    assert target.difficult.tolist() == [False, True]
    assert dataset.annotation_ids(0).tolist() == [1, 2]
    assert (dataset.image_id(0), len(dataset.target(1))) == ("a", 0)


def test_coinciding_corners_are_left_out_and_named(tmp_path):
    voc_folder(tmp_path, {"a": [("dog", 5, 5, 5, 9), ("dog", 5, 5, 6, 9)]})
    dataset = open_dataset(tmp_path)
    assert [(p.severity, p.where) for p in dataset.problems] == [("warning", "object 1")]
    assert dataset.problems[0].file.endswith("a.xml")
    assert dataset.target(0).boxes.tolist() == [[4, 4, 6, 9]]


def test_bccd(real_data):
    counts = {"train": [209, 2382, 214], "val": [83, 968, 87]}
    degenerate = {"train": ("BloodImage_00343.xml", "object 4"), "val": ("BloodImage_00338.xml", "object 13")}
    for split in ("train", "val"):
        dataset = open_dataset(real_data("bccd"), split)
        assert dataset.classes.names == ("Platelets", "RBC", "WBC")
        assert np.bincount(dataset.annotations.labels).tolist() == counts[split]
        (problem,) = dataset.problems
        assert (problem.file.endswith(degenerate[split][0]), problem.where) == (True, degenerate[split][1])
        assert dataset.label_counts().sum() == sum(counts[split]) - 1


BOMB = """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol1 "&lol;&lol;&lol;&lol;&lol;&lol;">]>
<annotation><object><name>&lol1;</name></object></annotation>"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "refused, it defines entities"),
        ("<annotation><object>", "not XML"),
        ("not xml", "not XML"),
        ('<?xml version="1.0" encoding="foo"?><annotation/>', "not XML"),
        (voc_xml([("dog", 1, 1, 5, 5)], ("inf", 20)), "size '20' x 'inf'"),
        ("<kml></kml>", "root element <kml>"),
        (voc_xml([("dog", "x", 1, 5, 5)]), "object 1"),
        (voc_xml([("", 1, 1, 5, 5)]), "object 1"),
    ],
)
def test_bad_xml_is_refused(tmp_path, text, message):
    voc_folder(tmp_path, {"a": [("dog", 1, 1, 5, 5)], "b": [("dog", 1, 1, 5, 5)]})
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        open_dataset(tmp_path)
    assert "a.xml" in str(error.value)


def test_missing_xml_missing_image_unknown_class_empty_list(tmp_path):
    voc_folder(tmp_path, {"a": [("dog", 1, 1, 5, 5)], "b": [("cow", 1, 1, 5, 5)]})
    (tmp_path / "classes.txt").write_text("dog\n")
    with pytest.raises(DataError, match=r"b\.xml, object 1: class 'cow'; expected one of dog"):
        open_dataset(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"b\.jpg does not exist"):
        open_dataset(tmp_path)
    (tmp_path / "Annotations" / "b.xml").unlink()
    with pytest.raises(DataError, match=r"b\.xml: there is no such annotation file"):
        open_dataset(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("\n")
    with pytest.raises(DataError, match="an empty data set"):
        open_dataset(tmp_path)


@pytest.fixture
def segmentation(tmp_path):
    """One image with two dogs (12 in VOC) that touch, and an outline of 255."""
    root = voc_folder(tmp_path, {"a": [("dog", 1, 1, 5, 5)]})
    classes = np.zeros((20, 30), np.uint8)
    classes[2:8, 3:15] = 12
    classes[8, 3:15] = 255
    objects = np.where(classes == 12, 1, classes)
    objects[2:8, 9:15] = 2
    for folder, values in (("SegmentationClass", classes), ("SegmentationObject", objects)):
        image = Image.fromarray(values.astype(np.uint8))
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
        (root / folder).mkdir()
        image.save(root / folder / "a.png")
    (root / "ImageSets" / "Segmentation").mkdir()
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    return root, classes


def test_palette_masks(segmentation):
    root, classes = segmentation
    dataset = open_dataset(root, task="semantic")
    assert dataset.classes.names == ("background", *VOC_CLASSES)
    np.testing.assert_array_equal(dataset.target(0, semantic=True).semantic, classes)


def test_a_split_has_its_own_folder_of_class_masks(segmentation):
    root, classes = segmentation
    (root / "SegmentationClassAug").mkdir()
    Image.fromarray(np.where(classes == 12, 3, 0).astype(np.uint8)).save(root / "SegmentationClassAug" / "a.png")
    entry = "{segmentation_list: ImageSets/Segmentation/train.txt, segmentation_masks: SegmentationClassAug}"
    (root / "card.yaml").write_text(f"name: more\nformat: voc\nsplits:\n  trainaug: {entry}\n")
    dataset = open_dataset(root / "card.yaml", "trainaug", task="semantic")
    np.testing.assert_array_equal(np.unique(dataset.target(0, semantic=True).semantic), [0, 3])


def test_object_masks(segmentation):
    root, classes = segmentation
    dataset = open_dataset(root, task="instance")
    target = dataset.target(0, masks=True)
    assert target.boxes.tolist() == [[3, 2, 9, 8], [9, 2, 15, 8]]
    assert [dataset.classes.names[label] for label in target.labels] == ["dog", "dog"]
    assert target.area.tolist() == [36, 36]
    np.testing.assert_array_equal(target.masks.any(0), classes == 12)


def test_an_object_mask_without_a_class_is_an_error(segmentation):
    root, classes = segmentation
    classes = np.where(np.arange(classes.shape[1]) >= 9, np.where(classes == 12, 25, 0), classes)  # the second object
    Image.fromarray(classes.astype(np.uint8)).save(root / "SegmentationClass" / "a.png")
    with pytest.raises(DataError, match="object 2: class value 25"):
        open_dataset(root, task="instance")
    problems = [problem for problem in check_dataset(root) if problem.where == "object 2"]
    assert [problem.severity for problem in problems] == ["error"]


def test_a_split_without_the_task(tmp_path):
    voc_folder(tmp_path, {"a": [("dog", 1, 1, 5, 5)]})
    with pytest.raises(DataError, match="no segmentation list"):
        open_dataset(tmp_path, task="semantic")


def test_size_comes_from_the_header_when_the_xml_has_none(tmp_path):
    voc_folder(tmp_path, {"a": [("dog", 1, 1, 5, 5)]})
    save_image(tmp_path / "JPEGImages" / "a.jpg", (33, 44))
    (tmp_path / "Annotations" / "a.xml").write_text(voc_xml([("dog", 1, 1, 5, 5)], (0, 0)))
    assert open_dataset(tmp_path).size(0) == (33, 44)
