"""Segmenters on data of polygons: what is painted, in which order, and that a U-Net learns from it."""

import numpy as np
import pytest
from layouts import coco_content, coco_folder, yolo_folder

import vision
from vision.data import DataError, open_dataset
from vision.data.convert import convert

SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]
WITHIN = [[4, 4, 8, 4, 8, 8, 4, 8]]


def folder(root, *objects, **changes):
    """An image of 20x30 with objects (category id, ring, area, crowd)."""
    content = coco_content() | changes
    content["annotations"] = [
        {"id": k, "image_id": 7, "category_id": category, "segmentation": rings, "bbox": [2, 2, 10, 10], "area": area,
         "iscrowd": crowd}
        for k, (category, rings, area, crowd) in enumerate(objects)
    ]  # fmt: skip
    return coco_folder(root, content)


@pytest.mark.parametrize("order", [1, -1])
def test_the_smaller_object_is_on_top(order, tmp_path):
    dataset = open_dataset(folder(tmp_path, *((3, SQUARE, 100, 0), (90, WITHIN, 16, 0))[::order]), task="semantic")
    assert dataset.classes.names == ("background", "cat", "dog")
    assert dataset.tasks == {"semantic"}
    expected = np.zeros((20, 30), np.uint8)
    expected[2:12, 2:12] = 1
    expected[4:8, 4:8] = 2
    np.testing.assert_array_equal(dataset.semantic(0), expected)
    assert dataset.class_masks.overlap(0) == 16
    assert dataset.label_counts().tolist() == [1200 - 100, 84, 16]
    assert not dataset.semantic(1).any()  # an image without objects


def test_crowds_are_ignored(tmp_path):
    crowd = {"size": [20, 30], "counts": [45, 2, 18, 2, 533]}
    dataset = open_dataset(folder(tmp_path, (3, SQUARE, 100, 0), (90, crowd, 4, 1)), task="semantic")
    assert (dataset.semantic(0) == 255).sum() == 4


def test_many_classes_and_a_class_called_background(tmp_path):
    categories = [{"id": k, "name": f"c{k}"} for k in range(300)]
    dataset = open_dataset(folder(tmp_path / "a", (299, WITHIN, 16, 0), categories=categories), task="semantic")
    assert (dataset.semantic(0).max(), dataset.semantic(0).dtype) == (300, np.int32)
    named = [{"id": 3, "name": "background"}]
    path = folder(tmp_path / "b", (3, WITHIN, 16, 0), categories=named)
    for read in (lambda: open_dataset(path, task="semantic"), lambda: convert(path, tmp_path / "new", "masks")):
        with pytest.raises(DataError, match="a class 'background' of objects"):
            read()


def test_a_unet_learns_from_polygons(tmp_path):
    ring = "0 0.1 0.2 0.6 0.2 0.6 0.8 0.1 0.8"
    data = yolo_folder(tmp_path / "data", {f"{k}": ring for k in range(4)})
    result = vision.train(
        model="unet", model_options={"width": 4, "depth": 2}, data=str(data), val_split="train:-50%", image_size=32,
        out=str(tmp_path / "run"), epochs=1, batch_size=2, device="cpu", precision="fp32", workers=0,
    )  # fmt: skip
    assert vision.load(result.weights).classes.names == ("background", "cat", "dog")
    assert result.metrics["mIoU"] >= 0


def test_coco256(real_data):
    dataset = open_dataset(real_data("coco256"), "train:10%", task="panoptic")
    assert "semantic" in dataset.tasks  # its own semantic masks come first
    path = real_data("coco256") / "annotations" / "instances_train2017.json"
    painted, objects = open_dataset(path, task="semantic"), open_dataset(path)
    for index in range(10):
        masks, crowd = (getattr(objects.target(index, masks=True), name) for name in ("masks", "crowd"))
        found = painted.semantic(index)
        np.testing.assert_array_equal(found > 0, masks.any(0) if len(masks) else found > 0)
        np.testing.assert_array_equal(found[(masks.sum(0) == 1) & masks[crowd].any(0)], 255)
