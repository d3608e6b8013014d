"""COCO instances and panoptic files: hand-made ones, and pycocotools' own reading as the oracle."""

import contextlib
import io
import json

import numpy as np
import pytest
from layouts import coco_content, coco_folder, save_image
from PIL import Image

from vision.data import DataError, open_dataset


def test_labels_follow_the_order_of_the_ids(tmp_path):
    dataset = open_dataset(coco_folder(tmp_path))
    assert dataset.classes.names == ("cat", "dog")
    assert dataset.classes.ids == (3, 90)
    target = dataset.target(0, masks=True)
    assert target.labels.tolist() == [0, 1]
    assert target.boxes.tolist() == [[4, 5, 14, 11], [2, 5, 4, 7]]
    assert target.crowd.tolist() == [False, True]
    assert target.area.tolist() == [60, 4]
    assert dataset.annotation_ids(0).tolist() == [11, 12]
    expected = np.zeros((2, 20, 30), bool)
    expected[0, 5:11, 4:14] = True
    expected[1, 5:7, 2:4] = True  # runs of 45 = 2 columns of 20 and 5 rows, 2, 18, 2, rest
    np.testing.assert_array_equal(target.masks, expected)


def test_an_image_without_objects_stays(tmp_path):
    dataset = open_dataset(coco_folder(tmp_path))
    assert len(dataset) == 2
    target = dataset.target(1, masks=True)
    assert target.boxes.shape == (0, 4)
    assert target.masks.shape == (0, 20, 30)
    assert (dataset.image_id(1), dataset.size(1)) == (9, (20, 30))
    assert dataset.image(1).shape == (20, 30, 3)
    assert dataset.label_counts().tolist() == [1, 0]  # the dog is a crowd
    assert dataset.image_labels(0).tolist() == [0]


def test_compressed_rle_equals_uncompressed(tmp_path):
    from pycocotools import mask as coco_mask

    content = coco_content()
    rle = coco_mask.frPyObjects(content["annotations"][1]["segmentation"], 20, 30)
    content["annotations"][1]["segmentation"] = {"size": [20, 30], "counts": rle["counts"].decode()}
    ours = open_dataset(coco_folder(tmp_path / "a", content)).target(0, masks=True).masks
    np.testing.assert_array_equal(ours, open_dataset(coco_folder(tmp_path / "b")).target(0, masks=True).masks)


def test_the_split_of_a_file_and_its_siblings(tmp_path):
    train = coco_folder(tmp_path)
    content = coco_content()
    content["images"].pop()
    val = coco_folder(tmp_path, content, "val")
    assert (open_dataset(val).split, len(open_dataset(val))) == ("val", 1)
    assert len(open_dataset(val, "train")) == len(open_dataset(train)) == len(open_dataset(tmp_path)) == 2
    assert len(open_dataset(train, "val")) == len(open_dataset(tmp_path, "val")) == 1
    with pytest.raises(DataError, match=r"no split 'test'.*train, val"):
        open_dataset(tmp_path, "test")


def test_a_folder_with_one_file_that_names_no_split(tmp_path):
    coco_folder(tmp_path, split="default")  # as CVAT writes it
    dataset = open_dataset(tmp_path)
    assert (dataset.split, len(dataset)) == ("train", 2)
    with pytest.raises(DataError, match=r"no split 'val'.*train:80% and train:-20%"):
        open_dataset(tmp_path, "val")


def annotation(**changes):
    content = coco_content()
    content["annotations"][0] |= changes
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (annotation(category_id=5), "annotation 11: category_id 5"),
        (annotation(image_id=8), "annotation 11: image_id 8"),
        (annotation(bbox=[1, 2, 3]), "annotation 11"),
        (annotation(bbox=[1, 2, float("nan"), 4]), "annotation 11: bbox"),
        (annotation(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "annotation 11: a polygon"),
        (annotation(segmentation={"size": [30, 20], "counts": [600]}), "annotation 11: RLE of size"),
        (annotation(segmentation={"size": [20, 30], "counts": [599]}), "add up to 600"),
        (annotation(segmentation={"size": [20, 30], "counts": "PPYo0"}), "add up to 600"),
        (coco_content() | {"images": []}, "an empty data set"),
        (coco_content() | {"annotations": []}, "has no annotations"),
        (coco_content() | {"categories": []}, "no categories"),
        (coco_content() | {"images": coco_content()["images"] * 2}, "image 7: an id that occurs twice"),
        ([1, 2], "list at the top"),
        ({"shapes": []}, "no list 'images'"),
        (annotation(category_id=[1]), "not built as COCO files are"),
        (annotation(iscrowd="no"), "iscrowd 'no' where 0 or 1 belongs"),
        (annotation(area=float("inf")), "annotation 11: area inf"),
        (
            coco_content() | {"images": [{"id": 7, "file_name": "a.png", "height": "x", "width": 1}]},
            "not built as COCO",
        ),
    ],
)
def test_bad_files_are_refused_with_the_culprit(tmp_path, content, message):
    path = tmp_path / "annotations" / "instances_train.json"
    coco_folder(tmp_path)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        open_dataset(path)
    assert "instances_train.json" in str(error.value)


def test_not_json_and_a_missing_image(tmp_path):
    path = coco_folder(tmp_path)
    (tmp_path / "images" / "train" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png does not exist"):
        open_dataset(path)
    path.write_text('{"images": [')
    with pytest.raises(DataError, match=r"instances_train\.json: not JSON"):
        open_dataset(path)
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"instances_train\.json: brackets nested too deeply"):
        open_dataset(path)


def test_what_is_left_out_or_kept_with_a_warning(tmp_path):
    content = coco_content()
    first = content["annotations"][0]
    content["annotations"] += [
        first | {"id": 13, "bbox": [3, 3, 0, 5], "segmentation": []},  # no area
        first | {"id": 14, "bbox": [40, 3, 5, 5], "segmentation": []},  # beside the image
        first | {"id": 15, "bbox": [25, 3, 10, 5], "segmentation": []},  # 5 pixels over the right edge
        first | {"id": 16, "bbox": [25, 3, 5.5, 5], "segmentation": []},  # half a pixel: rounding
        first | {"id": 11},  # a repeated id
        first | {"id": 18, "area": -3},
        first | {"id": 17, "segmentation": [[1, 1, 2, 2], *first["segmentation"]]},
    ]
    dataset = open_dataset(coco_folder(tmp_path, content))
    assert [(p.severity, p.where) for p in dataset.problems] == [
        ("warning", f"annotation {k}") for k in (11, 17, 13, 14, 15, 18, 15)
    ]
    assert dataset.problems[-1].value == "no mask, as 2 of 7 objects"  # 15 and 16; 13 and 14 are left out anyway
    assert dataset.annotation_ids(0).tolist() == [11, 12, 15, 16, 11, 18, 17]
    assert dataset.target(0).boxes[2].tolist() == [25, 3, 30, 8]
    assert dataset.target(0).boxes[3].tolist() == [25, 3, 30, 8]
    assert dataset.annotation_ids(0, as_written=True).tolist() == [11, 12, 13, 14, 15, 16, 11, 18, 17]
    assert dataset.target(0, as_written=True).boxes[5].tolist() == [25, 3, 30.5, 8]
    assert dataset.tasks == {"detection"}  # not every object has a mask
    with pytest.raises(ValueError, match="no instance masks"):
        dataset.target(0, masks=True)


def panoptic_folder(root, things=True):
    ids = np.zeros((20, 30, 3), np.uint8)
    ids[:10] = [4, 1, 0]  # segment 260: sky, stuff
    ids[5:9, 3:7] = [9, 0, 0]  # segment 9: a cat
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
        "categories": [{"id": 20, "name": "sky", "isthing": 0}, {"id": 3, "name": "cat", "isthing": 1}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": [
            {"id": 260, "category_id": 20, "area": 284, "bbox": [0, 0, 30, 10], "iscrowd": 0},
            {"id": 9, "category_id": 3, "area": 16, "bbox": [3, 5, 4, 4], "iscrowd": 0},
        ]}],
    }  # fmt: skip
    path = root / "annotations" / "panoptic_val2017.json"
    save_image(root / "val2017" / "a.png")
    (root / "annotations" / "panoptic_val2017").mkdir(parents=True)
    Image.fromarray(ids).save(root / "annotations" / "panoptic_val2017" / "a.png")
    path.write_text(json.dumps(content))
    return path


def test_panoptic_gives_things_and_the_semantic_map(tmp_path):
    dataset = open_dataset(panoptic_folder(tmp_path))
    assert dataset.classes.names == ("cat", "sky")
    assert dataset.classes.things == (True, False)
    target = dataset.target(0, masks=True, semantic=True)
    assert (target.boxes.tolist(), target.labels.tolist()) == ([[3, 5, 7, 9]], [0])
    expected = np.full((20, 30), 255)
    expected[:10] = 1
    expected[5:9, 3:7] = 0
    np.testing.assert_array_equal(target.semantic, expected)
    np.testing.assert_array_equal(target.masks[0], expected == 0)
    ids, segments, labels, crowd = dataset.panoptic(0)
    assert (segments.tolist(), labels.tolist(), crowd.tolist()) == ([260, 9], [1, 0], [False, False])
    assert set(np.unique(ids)) == {0, 9, 260}


def test_a_panoptic_file_that_lacks_a_key(tmp_path):
    path = panoptic_folder(tmp_path)
    content = json.loads(path.read_text())
    del content["annotations"][0]["segments_info"][0]["bbox"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"panoptic_val2017\.json: not built as COCO files are \(no 'bbox'\)"):
        open_dataset(path)


def test_panoptic_masks_that_are_missing_or_unknown(tmp_path):
    path = panoptic_folder(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][0]["category_id"] = 21
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="segment 260 of image 1: category_id 21"):
        open_dataset(path)
    panoptic_folder(tmp_path / "other")
    (tmp_path / "other" / "annotations" / "panoptic_val2017" / "a.png").unlink()
    with pytest.raises(DataError, match=r"panoptic mask .*a\.png does not exist"):
        open_dataset(tmp_path / "other", "val")


def test_coco256_equals_pycocotools(real_data):
    from pycocotools.coco import COCO

    path = real_data("coco256") / "annotations" / "instances_val2017.json"
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO(path)
    dataset = open_dataset(path)
    assert len(dataset) == 100
    for index in range(0, 100, 16):
        target = dataset.target(index, masks=True)
        annotations = oracle.loadAnns(oracle.getAnnIds(dataset.image_id(index)))
        assert [a["id"] for a in annotations] == dataset.annotation_ids(index).tolist()
        for k, annotation in enumerate(annotations):
            np.testing.assert_array_equal(target.masks[k], oracle.annToMask(annotation).astype(bool))
            x, y, width, height = annotation["bbox"]
            assert target.boxes[k].tolist() == [x, y, x + width, y + height]
            assert target.area[k] == annotation["area"]
            assert dataset.classes.ids[target.labels[k]] == annotation["category_id"]


def test_coco256_panoptic_semantic_equals_its_own_pngs(real_data):
    folder = real_data("coco256")
    dataset = open_dataset(folder, "val", task="panoptic")
    values = np.array([*dataset.classes.ids, *[0] * 123])  # label -> category id; 255 = ignore -> 0
    for index in range(0, 100, 20):
        path = folder / "semantic" / "val2017" / dataset.image_path(index).with_suffix(".png").name
        np.testing.assert_array_equal(values[dataset.semantic(index)], np.array(Image.open(path)))


def test_coco256_is_the_same_from_json_and_from_data_yaml(real_data):
    folder = real_data("coco256")
    for split in ("train", "val"):
        coco, yolo = open_dataset(folder, split), open_dataset(folder / "data.yaml", split)
        assert coco.classes.names == yolo.classes.names
        places = {yolo.image_path(i).name: i for i in range(len(yolo))}
        assert len(coco) == len(yolo)
        for index in range(len(coco)):
            ours, theirs = coco.target(index), yolo.target(places[coco.image_path(index).name])
            ours = ours.select(~ours.crowd)
            assert ours.labels.tolist() == theirs.labels.tolist()
            # six digits of the image's side: half of 1e-6 x 640 for the centre, and for half the width
            np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-3)
