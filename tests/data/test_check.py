"""Every rule that vision.data.check states, one by one; the real data sets have no more than their README says."""

import io
import json

import numpy as np
import pytest
from layouts import coco_content, coco_folder, mask_folder, save_image, voc_folder, voc_xml, yolo_folder
from PIL import Image
from test_coco import panoptic_folder

from vision.data.check import check_dataset, inspect_dataset, main_check, report
from vision.data.problem import DataError


def found(data, severity=None, split=None):
    """(file name, where, value) of each problem of a severity."""
    problems = check_dataset(data, split)
    return [(p.file.rpartition("/")[2], p.where, p.value) for p in problems if severity in (None, p.severity)]


def check_each_line_says_once_what_was_expected(data):
    lines = [str(problem) for problem in check_dataset(data)]
    assert lines
    assert [line for line in lines if line.count("expected") != 1] == []
    places = [line.partition(": ")[0] for line in lines]  # nor is the file named twice
    assert [line for line, place in zip(lines, places) if line.count(f"{place.partition(', ')[0]}: ") > 1] == []


def test_a_sound_data_set_has_notes_alone(tmp_path):
    path = coco_folder(tmp_path)
    out = io.StringIO()
    assert main_check(path, stream=out) == 0
    assert out.getvalue().splitlines() == [
        f"{tmp_path.name} train (detection, instance): 2 images; objects: cat 1",
        f"note     {tmp_path.name} train: 1 of 2 classes absent (dog); expected every class in every split; their "
        "metrics are undefined",
        f"note     {tmp_path.name} train: category ids 3..90 with 86 gaps; expected any ids; labels are 0..1 in their "
        "order",
        f"note     {tmp_path}/images/train/b.png: no objects; expected any number; used as an image without objects",
        "0 errors, 0 warnings, 3 notes",
    ]


def test_faults_of_a_coco_file_are_all_listed(tmp_path):
    content = coco_content()
    first = content["annotations"][0]
    content["annotations"] += [
        first | {"id": 13, "category_id": 4},
        first | {"id": 14, "image_id": 1},
        first | {"id": 15, "bbox": [1, 1, 0, 2]},
        first | {"id": 11},
    ]
    content["images"].append(content["images"][1])
    path = coco_folder(tmp_path, content)
    assert {(where, value) for _, where, value in found(path, "error")} == {
        ("annotation 13", "category_id 4"),
        ("annotation 14", "image_id 1"),
        ("image 9", "an id that occurs twice"),
    }
    assert {(where, value) for _, where, value in found(path, "warning")} == {
        ("annotation 11", "an id that occurs twice"),
        ("annotation 15", "box 1 1 1 3"),
    }
    assert inspect_dataset(path).exit_code == 1


def test_images_that_cannot_be_used(tmp_path):
    objects = [("dog", 1, 1, 5, 5)]
    voc_folder(tmp_path, dict.fromkeys(("whole", "cut", "empty", "other", "gone"), objects))
    images = tmp_path / "JPEGImages"
    content = (images / "cut.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(content[: len(content) * 2 // 3])
    (images / "empty.jpg").write_bytes(b"")
    (images / "gone.jpg").unlink()
    save_image(images / "other.jpg", (21, 30))
    errors = found(tmp_path, "error")
    assert [file for file, _, _ in errors] == ["train.txt", "cut.jpg", "empty.jpg", "other.jpg"]
    assert "gone.jpg does not exist" in errors[0][2]
    assert "truncated" in errors[1][2]
    assert "empty file" in errors[2][2]
    assert "30x21 pixels" in errors[3][2]
    assert [file for file, _, value in found(tmp_path) if value == "no objects"] == []  # also of the missing image
    check_each_line_says_once_what_was_expected(tmp_path)


def test_unusual_images_are_noted(tmp_path):
    path = yolo_folder(tmp_path, dict.fromkeys("abcd", "0 0.5 0.5 0.4 0.4\n1 0.5 0.5 0.2 0.2"))
    images = tmp_path / "images" / "train"
    grey = np.zeros((20, 30), np.uint8)
    Image.fromarray(grey).save(images / "a.png")
    Image.fromarray(grey.astype(np.uint16)).save(images / "b.png")
    Image.fromarray(np.zeros((20, 30, 4), np.uint8)).save(images / "c.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(images / "d.png", exif=exif)
    assert [(file, value) for file, _, value in found(path)] == [
        ("a.png", "grey image"),
        ("b.png", "grey image"),
        ("b.png", "16 bits a channel"),
        ("c.png", "alpha channel"),
        ("d.png", "EXIF orientation 6"),
    ]


def test_annotations_made_for_the_pixels_as_stored(tmp_path):
    voc_folder(tmp_path, {"a": [("dog", 1, 1, 30, 20)]})
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(tmp_path / "JPEGImages" / "a.jpg", (20, 30), exif=exif)  # 30x20 stored, 20x30 upright
    (problem,) = check_dataset(tmp_path)
    assert (problem.severity, problem.value) == ("note", "EXIF orientation 6")
    assert "as stored" in problem.expected


def test_masks(tmp_path):
    values = np.zeros((6, 8), np.uint8)
    values[0, :4] = [1, 2, 9, 255]
    mask_folder(tmp_path, {"a": values, "b": values % 3, "c": values % 3}, ["x", "y", "z", "never"])
    save_image(tmp_path / "images" / "b.png", (6, 9))
    (tmp_path / "masks" / "c.png").write_bytes(b"no png")
    errors = found(tmp_path, "error")
    assert [file for file, _, _ in errors] == ["a.png", "b.png", "c.png"]
    assert "mask value 9" in errors[0][2]
    assert "a.png, 1 value(s): mask value 9; expected 0 to 3, 255; mend" in report(inspect_dataset(tmp_path))
    assert "8x6 pixels beside an image of 9x6" in errors[1][2]
    assert "cannot be read" in errors[2][2]
    check_each_line_says_once_what_was_expected(tmp_path)
    (tmp_path / "masks" / "a.png").unlink()
    assert "does not exist" in found(tmp_path, "error")[0][2]


def test_binary_masks_are_noted(tmp_path):
    values = np.zeros((6, 8), np.uint8)
    values[2] = 255
    ((file, _, value),) = found(mask_folder(tmp_path, {"a": values}))
    assert (file, value) == ("images", "masks with the values 0 and 255 alone")


def test_panoptic_segments(tmp_path):
    path = panoptic_folder(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][1]["id"] = 10
    path.write_text(json.dumps(content))
    assert found(path, "error") == [("a.png", "", "segment id 9")]
    assert found(path, "warning") == [("a.png", "", "no pixel of segment 10")]


def test_a_split_without_annotations_and_an_image_in_both(tmp_path):
    voc_folder(tmp_path, {"a": [("dog", 1, 1, 5, 5)], "b": []})
    voc_folder(tmp_path, {"b": []}, "val")
    assert found(tmp_path, "error") == [(f"{tmp_path.name} val", "", "a split without annotations")]
    assert found(tmp_path, "warning") == [("b.jpg", "", "an image in train and in val")]
    assert found(tmp_path, "error", "train") == []


@pytest.mark.parametrize(("name", "text"), [("Annotations/a.xml", "<a"), ("ImageSets/Main/train.txt", "")])
def test_what_cannot_be_read_at_all(tmp_path, name, text):
    voc_folder(tmp_path, {"a": [("dog", 1, 1, 5, 5)]})
    (tmp_path / name).write_text(text)
    assert inspect_dataset(tmp_path).exit_code == 2
    check_each_line_says_once_what_was_expected(tmp_path)


def test_no_data_set(tmp_path):
    for data in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match=tmp_path.name):
            check_dataset(data)
    (tmp_path / "a.json").write_text("{")
    out = io.StringIO()
    assert main_check(tmp_path / "a.json", stream=out) == 2
    assert "not JSON" in out.getvalue()
    assert main_check("shapes:count=2", stream=io.StringIO()) == 0


def test_many_alike_are_shortened(tmp_path):
    path = yolo_folder(tmp_path, {f"{k:02d}": "0 0.5 0.5 0 0.1" if k else "1 0.5 0.5 0.1 0.1" for k in range(30)})
    text = report(inspect_dataset(path))
    assert text.count("\nwarning ") == 21
    assert "... and 9 more" in text
    assert "29 warnings" in text


def test_bccd_has_its_two_degenerate_boxes_and_nothing_else(real_data):
    assert found(real_data("bccd")) == [
        ("BloodImage_00343.xml", "object 4", "box 180 328 181 329"),
        ("BloodImage_00338.xml", "object 13", "box 503 336 504 337"),
    ]


def test_notes_of_one_kind_are_one_line_and_count_once(tmp_path):
    path = yolo_folder(tmp_path, {f"{k:02d}": "0 0.5 0.5 0.4 0.4\n1 0.5 0.5 0.1 0.1" for k in range(30)})
    for image in (tmp_path / "images" / "train").iterdir():
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(image)
    found = inspect_dataset(path)
    *_, line, counts = report(found).splitlines()
    assert line.endswith("00.png: grey image; expected colour; read as three equal channels (and 29 more like this)")
    assert (counts, found.count("note")) == ("0 errors, 0 warnings, 1 notes", 30)


@pytest.mark.parametrize("data", ["annotations/instances_val2017.json", "data.yaml"])
def test_coco256_has_its_grey_and_empty_images(real_data, data):
    problems = found(real_data("coco256") / data, split="val")
    notes = {value.split(" (")[0] for _, _, value in problems}
    assert ("000000007888.jpg", "", "grey image") in problems
    assert notes <= {"grey image", "no objects", "8 of 80 classes absent", "category ids 1..90 with 10 gaps"}
    assert (
        found(real_data("coco256") / data, "warning", "val") == found(real_data("coco256") / data, "error", "val") == []
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["camvid", "membrane", "coco256"])
def test_the_other_real_data_sets_have_notes_alone(real_data, name):
    assert [problem for problem in check_dataset(real_data(name)) if problem.severity != "note"] == []


def test_boxes_rings_and_classes_that_are_wrong(tmp_path):
    content = coco_content()
    first = content["annotations"][0]
    content["annotations"] += [
        first | {"id": 21, "bbox": [40, 5, 4, 4]},  # outside of the image, 30 pixels wide
        first | {"id": 22, "bbox": [25, 5, 10, 4]},  # passes its edge by 5
        first | {"id": 23, "bbox": [26, 5, 4.5, 4]},  # by half a pixel: rounding
        first | {"id": 24, "segmentation": [[4, 5, 14, 5, 14, 11], [1, 1, 2, 2]]},  # the second ring has two points
    ]
    path = coco_folder(tmp_path / "coco", content)
    warned = sorted(where for _, where, _ in found(path, "warning"))
    assert warned == ["annotation 21", "annotation 22", "annotation 24"]
    assert found(path, "error") == []
    voc_folder(tmp_path / "voc", {"a": [("dog", 1, 1, 5, 5), ("unicorn", 1, 1, 5, 5)]})
    (tmp_path / "voc" / "classes.txt").write_text("cat\ndog\n")
    ((file, where, value),) = found(tmp_path / "voc", "error")
    assert (file, value) == ("a.xml", "class 'unicorn'")
    assert where


def test_files_without_their_other_half(tmp_path):
    path = yolo_folder(tmp_path / "yolo", {"a": "0 0.5 0.5 0.4 0.4", "b": "1 0.5 0.5 0.4 0.4"})
    (tmp_path / "yolo" / "images" / "train" / "b.png").unlink()
    assert found(path, "warning") == [("b.txt", "", "a label file without an image")]
    path = panoptic_folder(tmp_path / "panoptic")
    content = json.loads(path.read_text())
    content["images"].append({"id": 2, "file_name": "b.png", "height": 20, "width": 30})
    path.write_text(json.dumps(content))
    assert found(path, "warning") == [("panoptic_val2017.json", "image 2", "no panoptic annotation")]
    masks = {"a": np.array([[0, 1], [2, 2]], np.uint8)}
    ((_, _, value),) = found(mask_folder(tmp_path / "masks", masks), "note")
    assert value == "3 values (0..2) without names"


def test_inks_are_noted(tmp_path):
    path = yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.4 0.4\n1 0.5 0.5 0.2 0.2"})
    Image.fromarray(np.zeros((20, 30, 4), np.uint8), "CMYK").save(tmp_path / "images" / "train" / "a.jpg")
    (tmp_path / "images" / "train" / "a.png").unlink()
    assert [value for _, _, value in found(path)] == ["CMYK image"]


@pytest.mark.parametrize(
    ("text", "where"),
    [("<kml/>", ""), (voc_xml([("dog", 1, 1, 5, 5), ("dog", "x", 1, 5, 5)]), "object 2")],
)
def test_an_xml_that_is_wrong_is_told_once(tmp_path, text, where):
    voc_folder(tmp_path, {"a": [("dog", 1, 1, 5, 5)], "b": [("dog", 1, 1, 5, 5)]})
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    ((file, place, _),) = found(tmp_path, "error")
    assert (file, place) == ("a.xml", where)
    check_each_line_says_once_what_was_expected(tmp_path)
