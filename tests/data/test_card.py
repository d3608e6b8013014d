"""Cards: the built-in ones, where their data are looked for, and cards that people write beside their data."""

import numpy as np
import pytest
from layouts import coco_content, coco_folder, mask_folder, save_image, voc_folder
from PIL import Image

from vision.data import DataError, open_dataset
from vision.data.card import built_in_cards, read_card

NAMES = ["ade20k", "bccd", "camvid", "cityscapes", "coco", "membrane", "voc2007", "voc2012"]


def test_the_cards_that_are_built_in(tmp_path):
    cards = built_in_cards()
    assert list(cards) == NAMES
    classes = {"ade20k": 150, "bccd": 3, "camvid": 11, "cityscapes": 19, "membrane": 2, "voc2007": 20, "voc2012": 20}
    for name, path in cards.items():
        card = read_card(path, tmp_path, built_in=True)
        assert card.name == name
        assert {"train", "val"} <= set(card.splits)
        assert classes.get(name) == (card.classes and len(card.classes))


def test_where_the_data_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = {"a": [("RBC", 1, 1, 9, 9), ("WBC", 2, 2, 5, 5)]}
    monkeypatch.delenv("VISION_DATA", raising=False)
    with pytest.raises(DataError, match=r"no folder at .*data/bccd; say where it is with `bccd=FOLDER`"):
        open_dataset("bccd")
    voc_folder(tmp_path / "data" / "bccd", objects)
    assert open_dataset("bccd").label_counts().tolist() == [0, 1, 1]
    voc_folder(tmp_path / "elsewhere" / "bccd", objects | {"b": []})
    monkeypatch.setenv("VISION_DATA", str(tmp_path / "elsewhere"))
    assert len(open_dataset("bccd")) == 2
    voc_folder(tmp_path / "named", objects | {"b": [], "c": []})
    assert len(open_dataset(f"bccd={tmp_path / 'named'}")) == 3
    with pytest.raises(DataError, match=r"no such file or folder, and no built-in data set.*shapes, ade20k, bccd"):
        open_dataset("blood")


def test_cityscapes_label_ids_become_the_19_classes(tmp_path):
    values = np.array([[7, 33, 0, 26, 9, 24]], np.uint8).repeat(4, 0)
    city = "bonn/bonn_000000_000019"
    save_image(tmp_path / "leftImg8bit" / "train" / f"{city}_leftImg8bit.png", (4, 6))
    path = tmp_path / "gtFine" / "train" / f"{city}_gtFine_labelIds.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(values).save(path)
    Image.fromarray(values).save(path.with_name("bonn_000000_000019_gtFine_instanceIds.png"))
    dataset = open_dataset(f"cityscapes={tmp_path}")
    assert dataset.semantic(0)[0].tolist() == [0, 18, 255, 13, 255, 11]


def test_ade20k_ignores_0(tmp_path):
    save_image(tmp_path / "images" / "training" / "a.jpg", (2, 3))
    (tmp_path / "annotations" / "training").mkdir(parents=True)
    Image.fromarray(np.array([[0, 1, 150]] * 2, np.uint8)).save(tmp_path / "annotations" / "training" / "a.png")
    dataset = open_dataset(f"ade20k={tmp_path}")
    assert dataset.semantic(0)[0].tolist() == [255, 0, 149]
    assert (dataset.classes.names[0], dataset.classes.names[149]) == ("wall", "flag")


def test_a_card_beside_the_data(tmp_path):
    mask_folder(tmp_path, {"a": np.array([[0, 255, 128]], np.uint8)})
    card = tmp_path / "cells.yaml"
    card.write_text(
        "name: cells\nformat: masks\nsplits: {train: {images: images, masks: masks}}\n"
        "classes: [background, nucleus]\nvalues: {255: nucleus, 128: ignore}\n"
    )
    for data in (card, tmp_path):
        dataset = open_dataset(data)
        assert (dataset.name, dataset.problems) == ("cells", [])
        assert dataset.semantic(0).tolist() == [[0, 1, 255]]


def test_a_card_with_its_path_and_category_ids_it_does_not_know(tmp_path):
    coco_folder(tmp_path / "data", coco_content())
    card = tmp_path / "pets.yaml"
    text = "format: coco\npath: data\nsplits: {train: {annotations: annotations/instances_train.json}}\nclasses: "
    card.write_text(text + "{3: feline, 90: hound}")
    dataset = open_dataset(card)
    assert (dataset.name, dataset.classes.names) == ("pets", ("feline", "hound"))  # the file's name where it has none
    card.write_text(text + "{3: feline}")
    with pytest.raises(DataError, match=r"annotation 12: category_id 90; expected one of 1 ids .*pets\.yaml"):
        open_dataset(card)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: tfrecord\nsplits: {train: {}}", "format 'tfrecord'; expected one of coco, voc, yolo, masks"),
        ("format: voc", "splits None; expected at least one"),
        (
            "format: voc\nsplits: {train: {lists: a}}",
            "split train: unknown key 'lists'; expected annotations, images, list",
        ),
        ("format: voc\nsplits: {train: {list: a}}\nclass: [a]", "unknown key 'class'"),
        ("format: voc\nsplits: {train: {list: a}}\nclasses: 3", "classes: 3; expected a list of names"),
        ("format: voc\nsplits: {train: {list: a}}\nclasses: [a, a]", "a occurs more than once"),
        ("format: voc\nsplits: {train: {list: a}}\npath: none", "which is no folder"),
        ("format: voc\nsplits: {train: {list: a.txt}}", r"a\.txt: there is no such file"),
    ],
)
def test_a_card_that_is_wrong_says_where(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "mine.yaml")


def test_real_data_by_card(real_data, monkeypatch):
    monkeypatch.setenv("VISION_DATA", str(real_data("bccd").parent))
    assert len(open_dataset("bccd", "val")) == 87
    assert len(open_dataset("camvid", "val")) == 101
    assert open_dataset("membrane", "val").label_counts().sum() == 6 * 512 * 512
    folder = real_data("coco256")
    assert len(open_dataset(f"coco={folder}", "val").classes) == 80
    assert len(open_dataset(f"coco={folder}", "val", "panoptic").classes) == 133
