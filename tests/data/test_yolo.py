"""YOLO text files: boxes, polygons, label paths, list files, and lines that are wrong."""

from pathlib import Path

import numpy as np
import pytest
from layouts import save_image, yolo_folder

from vision.data import DataError, open_dataset
from vision.data.yolo import label_path


def test_a_box_is_relative_to_the_image(tmp_path):
    path = yolo_folder(tmp_path, {"a": "1 0.5 0.5 0.2 0.5\n\n0 0.1 0.1 0.2 0.2\n", "b": None})
    dataset = open_dataset(path)
    assert dataset.classes.names == ("cat", "dog")
    target = dataset.target(0)  # 20 rows, 30 columns
    np.testing.assert_allclose(target.boxes, [[12, 5, 18, 15], [0, 0, 6, 4]], atol=1e-5)
    assert target.labels.tolist() == [1, 0]
    assert dataset.annotation_ids(0).tolist() == [1, 3]  # lines
    assert (len(dataset.target(1)), dataset.image_id(1), dataset.tasks) == (0, "b", {"detection"})
    assert len(open_dataset(tmp_path)) == 2  # the folder of the data.yaml


def test_polygons_are_instance_masks(tmp_path):
    path = yolo_folder(tmp_path, {"a": "0 0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75"})  # 3..15 by 5..15
    dataset = open_dataset(path)
    assert dataset.tasks == {"detection", "instance"}
    target = dataset.target(0, masks=True)
    expected = np.zeros((20, 30), bool)
    expected[5:15, 3:15] = True
    np.testing.assert_array_equal(target.masks[0], expected)
    np.testing.assert_allclose(target.boxes, [[3, 5, 15, 15]], atol=1e-5)
    assert target.area.tolist() == [120]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.2 0.2", r"a\.txt, line 2: class 2; expected one of 2 class numbers \(0\.\.1\)"),
        ("0.5 0.5 0.5 0.2 0.2", r"line 2: class 0\.5"),
        ("0 0.5 0.5 0.2", "line 2"),
        ("0 0.5 0.5 0.2 0.2 0.1", "line 2"),
        ("0 0.5 0.5 0.2 nan", "line 2"),
        ("cat 0.5 0.5 0.2 0.2", "line 2"),
        (
            "0 15 10 6 4",
            r"line 2: numbers that look like pixels; expected shares of the image, 0\.\.1; divide",
        ),
        ("0 3 5 15 5 15 15", "line 2: numbers that look like pixels"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = yolo_folder(tmp_path, {"a": f"0 0.5 0.5 0.2 0.2\n{line}\n"})
    with pytest.raises(DataError, match=message):
        open_dataset(path)


def test_boxes_beyond_the_edge_and_without_an_area(tmp_path):
    path = yolo_folder(
        tmp_path, {"a": "0 0.95 0.5 0.3 0.5\n0 0.5 0.5 0 0.5\n0 1.5 0.5 0.2 0.2\n0 0.9 0.5 0.200002 0.5"}
    )
    dataset = open_dataset(path)
    assert [problem.where for problem in dataset.problems] == ["line 1", "line 2", "line 3"]
    np.testing.assert_allclose(dataset.target(0).boxes[:, 2], [30, 30])
    assert dataset.annotation_ids(0).tolist() == [1, 4]


def test_a_repeated_line_is_left_out(tmp_path):
    path = yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2\n0  0.5 0.5 0.2 0.2\n"})
    dataset = open_dataset(path)
    assert dataset.target(0).labels.tolist() == [0, 1]
    (problem,) = dataset.problems
    assert (problem.severity, problem.where, problem.value) == ("warning", "line 3", "the same as line 1")


def test_a_label_file_without_an_image_is_named(tmp_path):
    path = yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"})
    (tmp_path / "labels" / "train" / "gone.txt").write_text("0 0.5 0.5 0.2 0.2")
    (problem,) = open_dataset(path).problems
    assert (problem.severity, problem.file.endswith("gone.txt")) == ("warning", True)


def test_label_files_of_other_splits_in_the_same_folder_are_no_orphans(tmp_path):
    path = yolo_folder(tmp_path, dict.fromkeys("abc", "0 0.5 0.5 0.2 0.2"), split="")
    for split, names in (("train", "ab"), ("val", "c")):
        (tmp_path / f"{split}.txt").write_text("".join(f"./images/{name}.png\n" for name in names))
    path.write_text("path: .\ntrain: train.txt\nval: val.txt\nnames: [cat, dog]\n")
    (tmp_path / "labels" / "gone.txt").write_text("0 0.5 0.5 0.2 0.2")
    for split, count in (("train", 2), ("val", 1)):
        dataset = open_dataset(path, split)
        assert len(dataset) == count
        assert [Path(problem.file).name for problem in dataset.problems] == ["gone.txt"]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
        ("/images/x/images/a.b.png", "/images/x/labels/a.b.txt"),
        ("/d/photos/a.jpg", "/d/photos/a.txt"),
    ],
)
def test_where_labels_lie(image, label):
    assert label_path(image) == label


def test_list_files_and_several_folders(tmp_path):
    yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.2 0.2", "b": None})
    yolo_folder(tmp_path, {"c": "1 0.5 0.5 0.2 0.2"}, "more")
    (tmp_path / "list.txt").write_text("images/train/a.png\n./images/more/c.png\n")
    path = tmp_path / "data.yaml"
    path.write_text("train: list.txt\nval: [images/train, images/more]\nnames: {0: cat, 1: dog}\n")
    assert [open_dataset(path).image_id(k) for k in range(2)] == ["a", "c"]
    assert open_dataset(path, "val").label_counts().tolist() == [1, 1]


def test_paths_that_lead_out_of_the_folder_as_some_exports_write_them(tmp_path):
    save_image(tmp_path / "train" / "images" / "a.png")
    (tmp_path / "train" / "labels").mkdir()
    (tmp_path / "train" / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nnc: 1\nnames: [cat]")
    assert len(open_dataset(tmp_path).target(0)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/none\nnames: [a]", "images/none does not exist"),
        ("names: [a]", "neither train nor val"),
        ("train: images/train", "no names"),
        ("train: images/train\nnames: [a, a]", "name a occurs more than once"),
        ("train: images/empty\nnames: [a]", "an empty data set"),
        ("train: images/train\nnames: [a]", "has no annotations"),
        ("train: [", "not YAML"),
        ("train: 5\nnames: [a]", "train: 5; expected a folder"),
        ("train: [images/train, 5]\nnames: [a]", "expected a folder"),
        ("- a\n- b", "list at the top"),
    ],
)
def test_bad_data_yaml(tmp_path, text, message):
    path = yolo_folder(tmp_path, {"a": None})
    (tmp_path / "images" / "empty").mkdir()
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(path)


def test_an_unreadable_image_is_named(tmp_path):
    path = yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"})
    save_image(tmp_path / "images" / "train" / "b.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"b\.png"):
        open_dataset(path)
