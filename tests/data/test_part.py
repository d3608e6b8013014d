"""Parts of a split: the same images everywhere, all of them once, with everything that is known of them."""

from pathlib import Path

import numpy as np
import pytest
from layouts import coco_content, coco_folder, mask_folder, voc_folder, yolo_folder

from vision.data import DataError, open_dataset
from vision.data.check import inspect_dataset
from vision.data.convert import convert
from vision.data.part import named_part

TRIANGLE = "0 0.1 0.1 0.5 0.1 0.5 0.8"


def many(root):
    """A COCO file of nine images with 0 to 4 objects each, in turn polygons of one or two rings, and RLE."""
    content = coco_content()
    polygon, rle = content["annotations"][0], content["annotations"][1]
    content["images"] = [{**content["images"][0], "id": 3 * k, "file_name": f"{k}.png"} for k in range(9)]
    content["annotations"] = [
        {**(polygon, rle)[place % 2], "id": 10 * k + place, "image_id": 3 * k}
        for k in range(9)
        for place in range(k % 5)
    ]
    for one in content["annotations"][::3]:
        if isinstance(one["segmentation"], list):
            one["segmentation"] = [*one["segmentation"], [1, 1, 3.25, 1, 3, 3]]
    return coco_folder(root, content)


def check_same(part, whole, places):
    """Image k of `part` is image places[k] of `whole`, in every respect."""
    assert len(part) == len(places)
    for index, place in enumerate(places):
        assert (part.image_path(index), part.size(index)) == (whole.image_path(place), whole.size(place))
        ours, theirs = (
            one.target(k, masks="instance" in one.tasks, semantic="semantic" in one.tasks)
            for one, k in ((part, index), (whole, place))
        )
        for name in ("boxes", "labels", "crowd", "difficult", "area", "masks", "semantic"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert ours.image_id == theirs.image_id
        np.testing.assert_array_equal(part.annotation_ids(index), whole.annotation_ids(place))


def folders(kind, root):
    stems = [f"picture{k}" for k in range(9)]
    if kind == "coco":
        return many(root)
    if kind == "voc":
        return voc_folder(root, {stem: [("dog", 1, 1, 5 + k, 9)] * (k % 3) for k, stem in enumerate(stems)})
    if kind == "yolo":
        return yolo_folder(root, {stem: f"{TRIANGLE} 0.{k}1 0.9" for k, stem in enumerate(stems)})
    values = np.arange(9 * 600).reshape(9, 20, 30) % 3
    return mask_folder(root, dict(zip(stems, values.astype(np.uint8))))


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo", "masks"])
def test_two_parts_have_every_image_once(kind, tmp_path):
    data = folders(kind, tmp_path)
    whole = open_dataset(data, "train")
    paths = [whole.image_path(index) for index in range(len(whole))]
    found = []
    for split, count in (("train:70%", 6), ("train:-30%", 3)):
        part = open_dataset(data, split)
        places = [paths.index(part.image_path(index)) for index in range(len(part))]
        assert (part.split, len(part), part.classes, part.tasks) == (split, count, whole.classes, whole.tasks)
        assert places == sorted(places)
        check_same(part, whole, places)
        found += places
    assert sorted(found) == list(range(9))
    assert found != list(range(9))  # not the first ones of the list


def test_a_part_hangs_on_the_names_of_the_files_alone(tmp_path):
    first = voc_folder(tmp_path / "a", {f"{k}": [("dog", 1, 1, 5, 9)] for k in range(20)})
    second = voc_folder(tmp_path / "b", {f"{k}": [("cat", 1, 1, 5, 9)] for k in reversed(range(20))})
    names = [
        {part.image_path(index).name for index in range(len(part))}
        for part in (open_dataset(data, "train:50%") for data in (first, second))
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 10


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo", "masks"])
def test_check_and_convert_take_parts(kind, tmp_path):
    data = folders(kind, tmp_path / "whole")
    part = open_dataset(data, "train:-30%")
    found = inspect_dataset(data, "train:-30%")
    assert [line.partition("; ")[0].partition(" (")[0] for line in found.splits] == [f"{part.name} train:-30%"]
    assert ": 3 images; " in found.splits[0]
    images = {str(part.image_path(index)) for index in range(len(part))}
    assert {problem.file for problem in found.problems if problem.value == "no objects"} <= images
    convert(data, tmp_path / "new", kind, "train:-30%")
    new = open_dataset(tmp_path / "new", "train")
    assert {new.image_path(index).stem for index in range(len(new))} == {Path(image).stem for image in images}


@pytest.mark.parametrize("split", ["train:80", "train:0%", "train:100%", "train:half", "train:-0.5%", "train:"])
def test_what_is_no_share_is_refused(split):
    with pytest.raises(DataError, match="expected a share of 1 to 99 per cent"):
        named_part(split)


def test_an_empty_part_and_a_part_of_generated_images(tmp_path):
    with pytest.raises(DataError, match="5% of the 2 images of split train: none, or all"):
        open_dataset(coco_folder(tmp_path), "train:5%")
    with pytest.raises(DataError, match="generated split; give its `count` instead"):
        open_dataset("shapes", "train:50%")
    with pytest.raises(DataError, match="generated split; give its `count` instead"):
        convert("shapes", tmp_path / "new", "coco", "train:50%")
