"""Folders without a card: every layout that is recognised, and what is said of those that are none."""

import json
import shutil

import numpy as np
import pytest
import yaml
from layouts import coco_content, save_image, voc_xml
from PIL import Image

from vision.data import DataError, open_dataset
from vision.data.check import check_dataset
from vision.data.source import find_card

XML, TXT, MASK = "xml", "txt", "mask"


def write(root, files):
    """{path: kind}: images by their suffix, else an XML, a label file, a mask of 6x8, a COCO file, or the text."""
    for name, kind in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == MASK:
            Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) % 2).save(path)
        elif path.suffix in (".jpg", ".png"):
            save_image(path, (6, 8))
        else:
            texts = {XML: voc_xml([("dog", 1, 1, 5, 5)], (6, 8)), TXT: "1 0.5 0.5 0.5 0.5\n"}
            path.write_text(texts.get(kind, kind) if isinstance(kind, str) else json.dumps(kind))
    return root


def coco(*names):
    images = [{"id": number, "file_name": name, "height": 6, "width": 8} for number, name in enumerate(names)]
    annotations = [
        {"id": image["id"], "image_id": image["id"], "category_id": 3, "bbox": [1, 1, 2, 2]} for image in images
    ]
    return {"info": {}, "images": images, "categories": [{"id": 3, "name": "dog"}], "annotations": annotations}


def both(pattern, kind, image="{0}/images/{1}.jpg"):
    """Two images of train and one of val, with their annotations."""
    pairs = [("train", "a"), ("train", "b"), ("val", "c")]
    return {name.format(*pair): what for pair in pairs for name, what in ((image, None), (pattern, kind))}


def whole(pattern, kind, image="images/{0}.jpg"):
    return {name.format(stem): what for stem in "ab" for name, what in ((image, None), (pattern, kind))}


UNDIVIDED = {
    "voc": whole("Annotations/{0}.xml", XML, "JPEGImages/{0}.jpg"),
    "voc, small letters": whole("annotations/{0}.xml", XML),
    "voc beside": whole("{0}.xml", XML, "{0}.jpg"),
    "voc in folders": whole("Annotations/x/{0}.xml", XML, "JPEGImages/x/{0}.jpg"),
    "yolo": whole("labels/{0}.txt", TXT),
    "yolo, names": whole("labels/{0}.txt", TXT) | {"classes.txt": "cat\ndog\n"},
    "yolo beside": whole("{0}.txt", TXT, "{0}.jpg") | {"classes.txt": "cat\ndog\n"},
    "masks": whole("masks/{0}.png", MASK),
    "masks in labels": whole("labels/{0}.png", MASK),
    "masks in annotations": whole("annotations/{0}.png", MASK),
    "masks in capitals": whole("Masks/{0}.png", MASK, "Images/{0}.jpg"),
    "masks, marked": whole("masks/{0}_mask.png", MASK),
    "masks beside": whole("{0}_mask.png", MASK, "{0}.jpg"),
    "masks beside, of one type": whole("{0}_mask.png", MASK, "{0}.png"),
    "coco": whole("annotations.json", coco("a.jpg", "b.jpg")),
    "coco, any name": whole("export 3.json", coco("a.jpg", "b.jpg")) | {"notes.json": {"categories": []}},
    "coco beside": whole("_annotations.coco.json", coco("a.jpg", "b.jpg"), "{0}.jpg"),
}
DIVIDED = {
    "voc, folders in splits": both("{0}/annotations/{1}.xml", XML),
    "voc beside": both("{0}/{1}.xml", XML, "{0}/{1}.jpg"),
    "yolo, splits in folders": both("labels/{0}/{1}.txt", TXT, "images/{0}/{1}.jpg"),
    "yolo, folders in splits": both("{0}/labels/{1}.txt", TXT),
    "yolo, lists": both("labels/{1}.txt", TXT, "images/{1}.jpg")
    | {"train.txt": "images/a.jpg\nimages/b.jpg", "val.txt": "./images/c.jpg"},
    "masks, splits in folders": both("annotations/{0}/{1}.png", MASK, "images/{0}/{1}.jpg"),
    "masks, folders in splits": both("{0}/masks/{1}.png", MASK),
    "masks, marked": both("{0}/masks/{1}_mask.png", MASK),
    "coco, files": both("images/{1}.jpg", None, "images/{1}.jpg")
    | {"train.json": coco("a.jpg", "b.jpg"), "val.json": coco("c.jpg")},
    "coco, file in splits": both("{0}/{1}.jpg", None, "{0}/{1}.jpg")
    | {"train/labels.json": coco("a.jpg", "b.jpg"), "val/labels.json": coco("c.jpg")},
}


@pytest.mark.parametrize("name", UNDIVIDED)
def test_a_data_set_without_splits_is_train(tmp_path, name):
    dataset = open_dataset(write(tmp_path, UNDIVIDED[name]))
    assert list(find_card(tmp_path).splits) == ["train"]
    assert [dataset.image_path(index).stem for index in range(len(dataset))] == ["a", "b"]
    assert [len(dataset.image_labels(index)) > 0 for index in range(2)] == [True, True]
    assert [problem for problem in check_dataset(tmp_path) if problem.severity != "note"] == []
    assert {len(open_dataset(tmp_path, split)) for split in ("train:50%", "train:-50%")} == {1}


@pytest.mark.parametrize("name", DIVIDED)
@pytest.mark.parametrize("val", ["val", "valid"])
def test_splits_are_folders_or_files(tmp_path, name, val):
    write(tmp_path, {path.replace("val", val): kind for path, kind in DIVIDED[name].items()})
    assert {split: len(open_dataset(tmp_path, split)) for split in ("train", "val")} == {"train": 2, "val": 1}
    assert open_dataset(tmp_path, "val").image_path(0).stem == "c"
    assert [problem for problem in check_dataset(tmp_path) if problem.severity != "note"] == []


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt", "labels/val/classes.txt"])
def test_where_the_names_of_yolo_classes_lie(tmp_path, place):
    write(tmp_path, DIVIDED["yolo, splits in folders"] | {place: "cat\ndog\n"})
    for split in ("train", "val"):
        dataset = open_dataset(tmp_path, split)
        assert (dataset.classes.names, dataset.problems) == (("cat", "dog"), [])


def test_names_that_disagree_are_refused(tmp_path):
    write(tmp_path, UNDIVIDED["yolo, names"] | {"labels/classes.txt": "dog\ncat\n"})
    with pytest.raises(DataError, match=r"labels/classes\.txt: other classes than in .*; keep the one"):
        open_dataset(tmp_path)


def test_yolo_classes_without_names_are_those_of_all_splits(tmp_path):
    write(tmp_path, DIVIDED["yolo, splits in folders"] | {"labels/val/c.txt": "4 0.5 0.5 0.1 0.1\nnone\n"})
    dataset = open_dataset(tmp_path)
    assert dataset.classes.names == tuple(f"class {number}" for number in range(5))
    assert [(problem.severity, problem.value) for problem in dataset.problems] == [
        ("note", "5 class numbers (0..4) without names")
    ]


@pytest.mark.parametrize(("values", "names"), [((0, 3), ("class 0", "class 1", "class 3")), ((0, 1), None)])
def test_mask_values_without_names_are_those_of_all_splits(tmp_path, values, names):
    write(tmp_path, DIVIDED["masks, folders in splits"])
    Image.fromarray(np.array([values] * 6, np.uint8)).resize((8, 6), 0).save(tmp_path / "val" / "masks" / "c.png")
    assert {open_dataset(tmp_path, split).classes.names for split in ("train", "val")} == {
        names or ("class 0", "class 1")
    }


def test_voc_classes_are_those_of_all_splits_and_halves_are_left_out_with_a_warning(tmp_path):
    files = DIVIDED["voc, folders in splits"] | {"val/annotations/c.xml": voc_xml([("cat", 1, 1, 5, 5)], (6, 8))}
    write(tmp_path, files | {"train/images/alone.jpg": None, "train/annotations/gone.xml": XML})
    dataset = open_dataset(tmp_path)
    assert (len(dataset), dataset.classes.names) == (2, ("cat", "dog"))
    assert [(problem.severity, problem.file[len(str(tmp_path)) + 1 :]) for problem in dataset.problems] == [
        ("warning", "train/images/alone.jpg"),
        ("warning", "train/annotations/gone.xml"),
    ]


def test_image_sets_are_followed_whatever_the_folder_of_images_is_called(tmp_path):
    write(tmp_path, UNDIVIDED["voc, small letters"] | {"ImageSets/Main/train.txt": "b\n"})
    shutil.move(tmp_path / "annotations", tmp_path / "Annotations")
    assert len(open_dataset(tmp_path)) == 1


def test_an_image_without_its_mask_is_an_error(tmp_path):
    write(tmp_path, UNDIVIDED["masks, marked"] | {"images/c.jpg": None})
    with pytest.raises(DataError, match=r"mask .*masks/c_mask\.png does not exist"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("voc beside", "yolo beside", r"VOC \(\.\), YOLO \(\.\).*format: voc, splits: \{train: \{images: \., annot"),
        ("yolo", "masks", r"YOLO \(images, labels\), masks \(images, masks\); .*format: yolo, splits"),
        ("coco", "masks", r"COCO \(annotations\.json\), masks \(images, masks\)"),
    ],
)
def test_two_data_sets_in_one_folder_are_refused(tmp_path, first, second, message):
    write(tmp_path, UNDIVIDED[first] | UNDIVIDED[second])
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path)


def test_several_coco_files_are_refused_unless_they_are_splits(tmp_path):
    write(tmp_path, UNDIVIDED["coco"] | {"other.json": coco("a.jpg")})
    with pytest.raises(DataError, match=r"no splits of one another \(annotations\.json, other\.json\); name the one"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path / "other.json")) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"an empty data set \(no file"),
        ({"a.csv": "x", "more/b.csv": "x"}, r"no images in the folder\); found 1 \.csv in it, 1 \.csv in more"),
        ({"a.jpg": None, "b.png": None}, r"images alone; found 1 \.jpg and 1 \.png in it\. A data set needs"),
        ({"set/images/a.jpg": None, "set/masks/a.png": MASK, "set2/a.jpg": None, "set2/a.xml": XML},
         r"of its folders these are: set/ \(masks\), set2/ \(VOC\); name one, as .*/set$"),
        ({"a.jpg": None, "a.csv": "x"}, "images alone"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_folder_that_is_no_data_set(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        open_dataset(write(tmp_path, files))


def test_one_json_an_image_is_told_from_coco(tmp_path):
    files = {f"{stem}.{suffix}": {"shapes": []} for stem in "abcd" for suffix in ("jpg", "json")}
    with pytest.raises(
        DataError, match=r"found 4 \.jpg and 4 \.json in it\. JSON files of one image each are not read"
    ):
        open_dataset(write(tmp_path, files))


def test_a_yaml_of_yolo_by_any_name(tmp_path):
    text = "path: .\ntrain: images\nnames: [cat, dog]\n"
    write(tmp_path, UNDIVIDED["yolo"] | {"blood.yaml": text, "hyp.yaml": "lr0: 0.01\n"})
    assert open_dataset(tmp_path).classes.names == ("cat", "dog")


@pytest.mark.parametrize("below", ["JPEGImages", "Annotations"])
def test_a_folder_of_a_data_set_names_the_one_above(tmp_path, below):
    write(tmp_path, UNDIVIDED["voc"])
    with pytest.raises(DataError, match=rf"the folder above, {tmp_path}, is one \(VOC\): name that"):
        open_dataset(tmp_path / below)


def test_a_folder_that_a_card_names_tells_of_the_one_above(tmp_path):
    write(tmp_path, whole("truth/{0}.png", MASK, "photos/{0}.jpg"))
    (tmp_path / "card.yaml").write_text("format: masks\nsplits: {train: {images: photos, masks: truth}}\n")
    with pytest.raises(DataError, match=r"is one \(masks\): name that"):
        open_dataset(tmp_path / "photos")
    with pytest.raises(DataError, match="an empty data set"):
        open_dataset(write(tmp_path, {"other/a.csv": "x"}) / "other")


def test_pictures_beside_a_folder_do_not_make_it_a_part_of_them(tmp_path):
    write(tmp_path, UNDIVIDED["voc beside"] | {"other/a.jpg": None})
    with pytest.raises(DataError, match="images alone"):
        open_dataset(tmp_path / "other")


@pytest.mark.parametrize(
    "files",
    [
        whole("truth/{0}_seg.png", MASK, "photos/{0}.jpg"),
        whole("xmls/{0}.xml", XML, "photos/{0}.jpg"),
        whole("numbers/{0}.txt", TXT, "photos/{0}.jpg"),
        {"photos/a.jpg": None, "photos/b.jpg": None, "truth/it.json": coco("a.jpg", "b.jpg")},
    ],
)
def test_the_card_that_is_proposed_reads_the_data(tmp_path, files):
    with pytest.raises(DataError, match="no known layout; found") as error:
        open_dataset(write(tmp_path, files))
    text = str(error.value).partition("card.yaml, as: ")[2]
    assert "photos" in yaml.safe_load(text)["splits"]["train"]["images"]
    (tmp_path / "card.yaml").write_text(text)
    assert len(open_dataset(tmp_path)) == 2


def test_coco_content_is_told_from_other_json(tmp_path):
    large = coco_content() | {"info": {"note": "x" * (1 << 20)}}  # the keys lie on the edge of what is read at once
    write(tmp_path, {"a.png": None, "b.png": None, "set.json": dict(reversed(large.items()))})
    assert find_card(tmp_path).format == "coco"
