"""Files that are not fit: one message with file and entry, and exit code 2."""

import json

import numpy as np
import pytest
from PIL import Image

from vision.cli import main
from vision.metrics import DetectionOptions
from vision.metrics.score import main_score, score_detections

BOX = {"image_id": 1, "category_id": 0, "bbox": [0, 0, 4, 4], "score": 0.5}
MASK = {"image_id": 1, "category_id": 0, "segmentation": {"size": [4, 6], "counts": [0, 24]}, "score": 0.5}
OBJECT = {**BOX, **MASK, "id": 1, "area": 16}
SQUARE = [0, 0, 4, 0, 4, 4, 0, 4]


def small_truth(**changes):
    truth = {
        "images": [{"id": 1, "height": 4, "width": 6}, {"id": 2, "height": 4, "width": 6}],
        "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
        "annotations": [OBJECT],
    }
    return truth | changes


def without(entry, field):
    return {name: value for name, value in entry.items() if name != field}


def refusal(folder, task, truth, results, capsys):
    """What the command line says of two files, with exit code 2."""
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    assert main(["score", "--task", task, str(folder / "truth.json"), str(folder / "results.json")]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "entry", "message"),
    [
        ("detection", without(BOX, "category_id"), "no 'category_id'"),
        ("detection", without(BOX, "score"), "no 'score'"),
        ("detection", {**BOX, "score": float("nan")}, "score nan; expected a finite number"),
        ("detection", {**BOX, "score": "0.5"}, "score '0.5'; expected a finite number"),
        ("detection", {**BOX, "bbox": None}, "bbox None; expected four finite numbers"),
        ("detection", {**BOX, "bbox": [1, 2, 3]}, "bbox [1, 2, 3]; expected four"),
        ("detection", {**BOX, "bbox": [1, 2, 3, float("inf")]}, "expected four finite numbers"),
        ("detection", {**BOX, "bbox": [1, 2, 3, "4"]}, "expected four finite numbers"),
        ("detection", {**BOX, "image_id": [1]}, "image_id [1]; expected a number or text"),
        ("instance", without(MASK, "segmentation"), "no 'segmentation'"),
        ("instance", {**MASK, "segmentation": []}, "segmentation []; expected polygons of three or more"),
        ("instance", {**MASK, "segmentation": [[]]}, "expected polygons of three or more"),
        ("instance", {**MASK, "segmentation": [[0, 0, 4, 4]]}, "expected polygons of three or more"),
        ("instance", {**MASK, "segmentation": [SQUARE, SQUARE[:-1]]}, "expected polygons of three or more"),
        ("instance", {**MASK, "segmentation": {"counts": [24]}}, "run lengths with size and counts"),
        ("instance", {**MASK, "segmentation": {"size": [4, 6], "counts": [2.5]}}, "run lengths with size and counts"),
        ("instance", {**MASK, "segmentation": {"size": [4, 6], "counts": "?!"}}, "counts '?!'; expected COCO's"),
        ("instance", {**MASK, "segmentation": {"size": [4, 6], "counts": [0, 20]}}, "cover 20 pixels, but its size"),
        ("instance", {**MASK, "segmentation": {"size": [6, 4], "counts": [0, 24]}}, "that has size [6, 4]"),
    ],
)
def test_results_that_are_not_fit_are_named_with_their_entry(task, entry, message, tmp_path, capsys):
    good = BOX if task == "detection" else MASK
    # the bad one is second in the file and, by its image, not second in the evaluation
    results = [{**good, "image_id": 2}, entry, {**good, "image_id": 2}]
    text = refusal(tmp_path, task, small_truth(), results, capsys)
    assert "results.json: results[1]: " in text
    assert message in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"id": 0}]}, "categories[0]: no 'name'"),
        ({"categories": [{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]}, "categories[1]: id 0 for the second time"),
        ({"images": [{"id": 1}, {"id": 2}, {"id": 1}]}, "images[2]: id 1 for the second time"),
        ({"images": [{"id": 1}, {"id": "2"}]}, "images[1]: id is text where others are numbers"),
        ({"images": {}}, "images is no list"),
        ({"annotations": [OBJECT, without(OBJECT, "category_id")]}, "annotations[1]: no 'category_id'"),
        ({"annotations": [OBJECT, without(OBJECT, "bbox")]}, "annotations[1]: no 'bbox'"),
        ({"annotations": [{**OBJECT, "area": None}]}, "annotations[0]: area None"),
        ({"annotations": [{**OBJECT, "iscrowd": "0"}]}, "annotations[0]: iscrowd '0'; expected 0 or 1"),
        ({"annotations": [{**OBJECT, "difficult": "0"}]}, "annotations[0]: difficult '0'; expected 0 or 1"),
        ({"annotations": [OBJECT, OBJECT]}, "annotations[1]: id 1 for the second time"),
        ({"annotations": [{**OBJECT, "id": None}]}, "annotations[0]: id None; expected a number or text"),
    ],
)
def test_truth_that_is_not_fit_is_named_with_its_entry(changes, message, tmp_path, capsys):
    text = refusal(tmp_path, "detection", small_truth(**changes), [BOX], capsys)
    assert f"truth.json: {message}" in text


def test_ids_of_another_kind_are_told(tmp_path, capsys):
    text = refusal(tmp_path, "detection", small_truth(), [{**BOX, "image_id": "1"}], capsys)
    assert "image_id '1' (text, where the truth has numbers) not in" in text


FILES = {1: "val/a.png", 2: "val/b.png", 3: "other/b.png"}


@pytest.mark.parametrize(
    ("rows", "images"),
    [
        ([{"image_id": "val/a.png"}, {"image_id": "val/b.png"}], (1, 2, 3)),
        ([{"image_id": "x", "file_name": "val/a.png"}, {"image_id": "y", "file_name": "val/b.png"}], (1, 2, 3)),
        ([{"image_id": "a.png"}, {"image_id": "b.png"}], (1, 2)),
        ([{"image_id": "here/a.png"}, {"image_id": "here/b.png"}], (1, 2)),
        ([{"image_id": "a.png"}, {"image_id": "b.png"}], None),  # two files of the truth end in b.png
        ([{"image_id": "x/a.png"}, {"image_id": "y/a.png"}], None),  # two pictures for one
        ([{"image_id": "a.png"}, {"image_id": "c.png"}], None),
        ([{"image_id": "a.png"}, {"image_id": 2}], None),
    ],
)
def test_results_that_name_images_by_their_files(rows, images, tmp_path, capsys):
    known = [{"id": i, "file_name": FILES[i], "height": 4, "width": 6} for i in images or FILES]
    truth = small_truth(images=known, annotations=[OBJECT, {**OBJECT, "id": 2, "image_id": 2}])
    results = [{**BOX, **row} for row in rows]
    if images is None:
        assert "not in" in refusal(tmp_path, "detection", truth, results, capsys)
        return
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    figures, notes = score_detections(tmp_path / "truth.json", tmp_path / "results.json", DetectionOptions())
    assert figures.average_precision() == pytest.approx(1)
    assert "names images by their files" in notes[0]


def test_polygons_without_boxes_are_scored(tmp_path):
    truth = small_truth(annotations=[{**without(OBJECT, "bbox"), "segmentation": [SQUARE]}])
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps([{**MASK, "segmentation": [SQUARE]}]))
    figures = score_detections(tmp_path / "truth.json", tmp_path / "results.json", DetectionOptions("segm"))[0]
    assert figures.average_precision() == pytest.approx(1)


def write_panoptic(folder, name, ids, **changes):
    """A panoptic file of one image, ids (H, W), whose segments are of class 0."""
    (folder / name).mkdir(exist_ok=True)
    ids = np.array(ids)
    Image.fromarray(np.stack([ids & 255, ids >> 8, ids * 0], -1).astype(np.uint8)).save(folder / name / "a.png")
    segments = [{"id": int(one), "category_id": 0} for one in np.unique(ids[ids > 0])]
    entry = {"image_id": 1, "file_name": "a.png", "segments_info": segments} | changes
    content = {"categories": [{"id": 0, "name": "a"}], "annotations": [entry]}
    (folder / f"{name}.json").write_text(json.dumps(content))
    return content


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segments_info": None}, "annotations[0]: segments_info None; expected a list"),
        ({"file_name": None}, "annotations[0]: file_name None"),
        ({"segments_info": [{"category_id": 0}]}, "annotations[0].segments_info[0]: no 'id'"),
        ({"segments_info": [{"id": 7, "category_id": 0}]}, "segment 7 of image 1 has no pixel in"),
        ({"segments_info": [{"id": 1 << 24, "category_id": 0}]}, "has no pixel in"),
        ({"segments_info": [{"id": 300, "category_id": 0}]}, "segment 2 of image 1 in "),
        ({"segments_info": [{"id": 300, "category_id": 0}] * 2}, "segments_info[1]: id 300 for the second time"),
        ({"segments_info": [{"id": -1, "category_id": 0}]}, "segments_info[0]: id -1; expected 0 or more"),
        ({"image_id": "1"}, "no annotation for image 1 (text, where the truth has numbers)"),
    ],
)
def test_panoptic_files_that_are_not_fit_are_named(changes, message, tmp_path, capsys):
    write_panoptic(tmp_path, "truth", [[300, 2, 0]])
    write_panoptic(tmp_path, "found", [[300, 2, 0]], **changes)
    paths = [str(tmp_path / f"{name}.json") for name in ("truth", "found")]
    assert main(["score", "--task", "panoptic", *paths]) == 2
    text = capsys.readouterr().err
    assert "found" in text and message in text


def test_panoptic_pictures_of_another_size_are_named(tmp_path, capsys):
    write_panoptic(tmp_path, "truth", [[300, 2, 0]])
    write_panoptic(tmp_path, "found", [[300, 2]])
    assert main(["score", "--task", "panoptic", *(str(tmp_path / f"{name}.json") for name in ("truth", "found"))]) == 2
    assert "found.json: a.png of image 1 has (1, 2) pixels, but (1, 3) in" in capsys.readouterr().err


def test_two_masks_of_one_name_are_refused(tmp_path):
    for folder in ("truth", "found"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / folder / "a.png")
    Image.fromarray(np.ones((2, 2), np.uint8)).save(tmp_path / "found" / "a.tif")
    with pytest.raises(ValueError, match=r"found: a.png and a.tif; expected one mask of each name"):
        main_score("semantic", tmp_path / "truth", tmp_path / "found")


def test_panoptic_images_without_a_partner_are_counted_in_notes(tmp_path, capsys):
    write_panoptic(tmp_path, "truth", [[300, 2, 0]])
    content = write_panoptic(tmp_path, "found", [[300, 2, 0]])
    path = tmp_path / "found.json"
    path.write_text(
        json.dumps(content | {"annotations": [{**content["annotations"][0], "image_id": i} for i in (1, 5)]})
    )
    assert main_score("panoptic", tmp_path / "truth.json", path, tmp_path / "out.json") == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["PQ"] == 1
    assert figures["notes"] == [f"1 images of {path} without a partner left out: 5"]
    assert figures["notes"][0] in capsys.readouterr().out
    path.write_text(json.dumps(content | {"annotations": content["annotations"] * 2}))
    with pytest.raises(ValueError, match=r"annotations\[1\]: image_id 1 for the second time"):
        main_score("panoptic", tmp_path / "truth.json", path)
