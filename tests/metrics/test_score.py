"""Metrics from files alone."""

import json

import numpy as np
import pytest
from coco_oracle import coco_files, pycocotools_arrays, random_case
from PIL import Image

from vision.cli import main
from vision.metrics import DetectionAP, DetectionOptions, DetectionScore, VocAP
from vision.metrics.score import main_score, score_detections, score_panoptic


def plain(entries):
    """JSON-able: pycocotools' bytes as text."""
    text = lambda rle: {**rle, "counts": rle["counts"].decode()}  # noqa: E731
    return [{**one, "segmentation": text(one["segmentation"])} if "segmentation" in one else one for one in entries]


def write_case(folder, case, kind, **changes):
    truth, results = folder / "truth.json", folder / "results.json"
    content = coco_files(plain(case.annotations), case.images, case.classes)
    truth.write_text(json.dumps(content | changes))
    results.write_text(json.dumps(plain(case.results)))
    return truth, results


@pytest.mark.parametrize(("task", "kind"), [("detection", "bbox"), ("instance", "segm")])
def test_detection_files_equal_pycocotools(task, kind, tmp_path, capsys):
    case = random_case(8, kind, images=5)
    truth, results = write_case(tmp_path, case, kind)
    out = tmp_path / "new" / "metrics.json"
    assert main_score(task, truth, results, out) == 0
    expected = pycocotools_arrays(coco_files(case.annotations, case.images, case.classes), case.results, kind)
    assert json.loads(out.read_text())["AP"] == pytest.approx(np.nanmean(expected["precision"][:, :, :, 0, 2]), 1e-12)
    assert "AP_small" in capsys.readouterr().out


@pytest.mark.parametrize("protocol", ["voc", "voc_inclusive"])
def test_detection_files_by_the_rules_of_voc(protocol, tmp_path, capsys):
    case = random_case(8, images=5)
    case.annotations[0]["difficult"] = 1
    case.targets[case.annotations[0]["image_id"]].difficult[0] = True
    files = write_case(tmp_path, case, "bbox")
    assert main_score("detection", *files, tmp_path / "out.json", protocol=protocol) == 0
    metric = VocAP(case.classes, corners="inclusive" if protocol == "voc_inclusive" else "continuous")
    metric.update(case.detections, case.targets)
    assert json.loads((tmp_path / "out.json").read_text()) == metric.compute().to_dict()
    assert "AP_11_point" in capsys.readouterr().out
    with pytest.raises(ValueError, match="protocol 'pascal'; expected one of coco, voc"):
        main_score("detection", *files, protocol="pascal")


def test_analysis_of_files(tmp_path, capsys):
    case = random_case(8, images=5)
    files = write_case(tmp_path, case, "bbox")
    assert main_score("detection", *files, tmp_path / "out.json", analyse=True) == 0
    metric = DetectionScore(case.classes, DetectionOptions(analyse=True))
    metric.update(case.detections, case.targets)
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures == json.loads(metric.compute().table("json"))
    assert {"AP", "curves", "confusion", "errors"} <= figures.keys()
    assert "false alarm" in capsys.readouterr().out


def test_boundary_files(tmp_path):
    case = random_case(8, "segm", images=5)
    assert main_score("boundary", *write_case(tmp_path, case, "segm"), tmp_path / "out.json") == 0
    metric = DetectionAP(case.classes, "boundary")
    metric.update(case.detections, case.targets)
    figures = metric.compute().to_dict()
    assert json.loads((tmp_path / "out.json").read_text()) == figures
    assert 0 < figures["AP"] < 1


def test_masks_of_another_size_than_the_image_are_named(tmp_path):
    case = random_case(8, "segm", images=5)
    files = write_case(tmp_path, case, "segm", images=[{"id": i, "height": 64, "width": 60} for i in range(5)])
    with pytest.raises(ValueError, match=r"has size \[64, 64\]; expected that of the image, \[64, 60\]"):
        main_score("instance", *files)


def test_real_images_with_perturbed_boxes_equal_pycocotools(real_data, tmp_path):
    path = real_data("coco256") / "annotations" / "instances_val2017.json"
    content, rng = json.loads(path.read_text()), np.random.default_rng(0)
    results = []
    for one in content["annotations"]:
        for _ in range(3):
            box = np.array(one["bbox"]) + rng.normal(0, 6, 4).round(2)
            box[2:] = box[2:].clip(0)
            score = round(float(rng.random()), 2)
            results.append({k: one[k] for k in ("image_id", "category_id")} | {"bbox": box.tolist(), "score": score})
    (tmp_path / "results.json").write_text(json.dumps(results))
    result, _ = score_detections(path, tmp_path / "results.json", DetectionOptions())
    expected = pycocotools_arrays(content, results, "bbox")
    for name, array in expected.items():
        np.testing.assert_array_equal(getattr(result, name), array)


def test_annotation_id_zero(tmp_path):
    box = {"image_id": 0, "category_id": 0, "bbox": [0, 0, 10, 10]}
    content = coco_files([{**box, "id": 0, "area": 100, "iscrowd": 0}], 1, 1)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps([{**box, "score": 1}]))
    files = (tmp_path / "truth.json", tmp_path / "results.json")
    assert score_detections(*files, DetectionOptions())[0].average_precision() == pytest.approx(1)
    as_reference = score_detections(*files, DetectionOptions(), zero_ids=True)[0]
    np.testing.assert_array_equal(
        as_reference.precision, pycocotools_arrays(content, [{**box, "score": 1}], "bbox")["precision"]
    )
    assert as_reference.average_precision() == 0
    for switch, expected in ((["--pycocotools-ids"], 0), ([], pytest.approx(1))):
        arguments = ["score", "--task", "detection", *map(str, files), "--out", str(tmp_path / "out.json"), *switch]
        assert main(arguments) == 0
        assert json.loads((tmp_path / "out.json").read_text())["AP"] == expected


def test_category_ids_with_gaps_and_unlisted_categories(tmp_path, capsys):
    box = {"image_id": 3, "bbox": [0, 0, 10, 10], "category_id": 90}
    content = {
        "images": [{"id": 3, "height": 20, "width": 20}],
        "categories": [{"id": 90, "name": "z"}, {"id": 7, "name": "a"}],
        "annotations": [{**box, "id": 4}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps([{**box, "score": 1}, {**box, "score": 1, "category_id": 8}]))
    assert main_score("detection", tmp_path / "truth.json", tmp_path / "results.json", tmp_path / "out.json") == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    assert list(figures["per_class"]) == ["a", "z"]
    assert figures["per_class"]["z"]["AP"] == pytest.approx(1)
    assert "1 results of unlisted categories" in capsys.readouterr().out


def test_semantic_folders(tmp_path, capsys):
    for name, values in (("truth", [[0, 1, 255]]), ("found", [[0, 0, 1]])):
        (tmp_path / name).mkdir()
        image = Image.fromarray(np.array(values, np.uint8), "P" if name == "truth" else "L")
        if name == "truth":
            image.putpalette([50, 60, 70] * 256)
        image.save(tmp_path / name / "1.png")
    assert main_score("semantic", tmp_path / "truth", tmp_path / "found", tmp_path / "out.json") == 0
    assert json.loads((tmp_path / "out.json").read_text())["pixel_accuracy"] == 0.5
    assert "mIoU" in capsys.readouterr().out
    files = (tmp_path / "truth", tmp_path / "found", tmp_path / "more.json")
    assert main_score("semantic", *files, analyse=True, per_image=True) == 0
    figures = json.loads((tmp_path / "more.json").read_text())
    assert figures["semantic"]["averaged_over"] == "mean over 1 images"
    assert figures["surface"]["per_class"]["class 1"]["hausdorff"] == "infinity"
    # class 0 is one pixel, whose only pair is with itself; the other one is not found
    assert figures["rand"]["per_class"]["class 0"]["V_rand"] is None
    assert "rand_error" in capsys.readouterr().out
    (tmp_path / "found" / "1.png").unlink()
    with pytest.raises(ValueError, match="no masks in it"):
        main_score("semantic", tmp_path / "truth", tmp_path / "found")


def test_panoptic_files_scored_against_themselves(real_data):
    path = real_data("coco256") / "annotations" / "panoptic_val2017.json"
    content = json.loads(path.read_text())
    figures = score_panoptic(path, path).to_dict()
    assert figures["PQ"] == figures["SQ"] == figures["RQ"] == 1
    crowds_aside = sum(not row["iscrowd"] for one in content["annotations"] for row in one["segments_info"])
    assert sum(row["TP"] for row in figures["per_class"].values()) == crowds_aside


@pytest.mark.parametrize(
    ("truth", "results", "message"),
    [
        ("{", "[]", "truth.json: not a JSON file"),
        ("[]", "[]", "truth.json: not COCO ground truth"),
        (json.dumps(coco_files([], 1, 1)), "[3]", r"results.json: results\[0\]: 3; expected a dictionary"),
        (json.dumps(coco_files([], 1, 1)), "{}", "results.json: not COCO results"),
        (json.dumps(coco_files([], 1, 1)), '[{"image_id": 9, "category_id": 0}]', "image_id 9 not in"),
        (json.dumps(coco_files([], 1, 1)), '[{"image_id": 0, "category_id": 0, "bbox": [0, 0, 1, 1]}]', "'score'"),
    ],
)
def test_bad_files_are_named(truth, results, message, tmp_path):
    (tmp_path / "truth.json").write_text(truth)
    (tmp_path / "results.json").write_text(results)
    with pytest.raises(ValueError, match=message):
        main_score("detection", tmp_path / "truth.json", tmp_path / "results.json", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def write_masks(folder, **images):
    folder.mkdir()
    for name, values in images.items():
        Image.fromarray(np.array(values, np.uint8)).save(folder / f"{name}.png")
    return folder


def semantic_figures(folder, capsys, *options):
    """The JSON and the printed text of `vision score` on the folders truth and found."""
    arguments = ["score", "--task", "semantic", str(folder / "truth"), str(folder / "found"), *options]
    assert main([*arguments, "--out", str(folder / "out.json")]) == 0
    return json.loads((folder / "out.json").read_text()), capsys.readouterr().out


@pytest.mark.parametrize("foreground", [255, 1])
@pytest.mark.parametrize("classes", [[], ["--classes", "2"], ["--classes", "ground,cell"]])
def test_binary_masks_of_0_and_255(foreground, classes, tmp_path, capsys):
    write_masks(tmp_path / "truth", a=[[0, 0, 255, 255]], b=[[0, 0, 0, 0]])
    write_masks(tmp_path / "found", a=[[0, 0, 0, foreground]], b=[[0, 0, 0, 0]])
    figures, text = semantic_figures(tmp_path, capsys, *classes)
    # class 0: 6 of 7; class 1: 1 of 2
    assert [row["IoU"] for row in figures["per_class"].values()] == [pytest.approx(6 / 7), 0.5]
    assert "255 is taken for class 1" in text and "255 is taken for class 1" in figures["notes"][0]
    figures, text = semantic_figures(tmp_path, capsys, "--ignore", "255", *classes)
    assert "25.00% of the truth's pixels are 255 and not counted" in text
    assert next(iter(figures["per_class"].values()))["IoU"] == 1


@pytest.mark.parametrize("classes", [[], ["--classes", "2"]])
def test_predictions_of_0_and_255_for_a_truth_of_0_and_1(classes, tmp_path, capsys):
    write_masks(tmp_path / "truth", a=[[0, 0, 1, 1]], b=[[0, 0, 0, 0]])
    write_masks(tmp_path / "found", a=[[0, 0, 0, 255]], b=[[0, 0, 0, 0]])
    figures, text = semantic_figures(tmp_path, capsys, *classes)
    assert [row["IoU"] for row in figures["per_class"].values()] == [pytest.approx(6 / 7), 0.5]
    assert "the predictions' values are 0 and 255: 255 is taken for class 1" in text
    # asked for, 255 stays no class: one of eight pixels, and class 1 has none
    figures, text = semantic_figures(tmp_path, capsys, "--ignore", "255", *classes)
    assert figures["per_class"]["class 1"]["IoU"] == 0
    assert "12.50% of the predicted pixels are no class, as 255, and count as wrong" in text


@pytest.mark.parametrize(("found", "share"), [([[0, 1, 9, 2]], "33.33%"), ([[0, 1, 2, 9]], None)])
def test_predicted_values_that_are_no_class_are_told(found, share, tmp_path, capsys):
    write_masks(tmp_path / "truth", a=[[0, 1, 2, 255]])
    write_masks(tmp_path / "found", a=found)
    _, text = semantic_figures(tmp_path, capsys)
    assert ("no class" in text) == (share is not None)  # not where nothing is counted
    assert share is None or f"{share} of the predicted pixels are no class, as 9" in text


def test_outlines_by_the_percentile_tolerance_and_spacing_asked_for(tmp_path, capsys):
    write_masks(tmp_path / "truth", a=[[1, 0, 0, 0]])
    write_masks(tmp_path / "found", a=[[0, 0, 0, 1]])
    options = ["--analyse", "--percentile", "90", "--tolerance", "6", "--spacing", "1", "2"]
    figures, _ = semantic_figures(tmp_path, capsys, *options)
    row = figures["surface"]["per_class"]["class 1"]  # one pixel, three columns of width 2 away
    assert (row["hausdorff"], row["hd90"], row["surface_dice"]) == (6, 6, 1)
    assert (figures["surface"]["spacing"], figures["surface"]["tolerance"]) == ([1, 2], 6)
    paths = [str(tmp_path / "truth"), str(tmp_path / "found")]
    for arguments in (["--task", "semantic", *paths], ["--task", "panoptic", "--analyse", *paths]):
        assert main(["score", *arguments, "--percentile", "90"]) == 2
        assert "percentile" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--classes", "2"], ["--ignore", "0"], ["--per-image"]])
@pytest.mark.parametrize("task", ["detection", "panoptic"])
def test_options_of_maps_are_refused_for_other_tasks(task, options, capsys):
    assert main(["score", "--task", task, "truth.json", "results.json", *options]) == 2
    assert f"{options[0][2:].replace('-', '_')} given for task '{task}'" in capsys.readouterr().err


def test_limits_and_format_of_the_command_line(tmp_path, capsys):
    paths = list(map(str, write_case(tmp_path, random_case(8, images=5), "bbox")))
    limits = ["--max-detections", "1", "10", "300"]
    assert main(["score", "--task", "detection", *paths, *limits, "--format", "json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert "AR_300" in figures and "AR_100" not in figures
    for style, start in (("csv", "metric,value\nAP,"), ("markdown", "| metric"), ("console", "metric")):
        assert main(["score", "--task", "detection", *paths, "--format", style]) == 0
        assert capsys.readouterr().out.startswith(start)


def test_notes_do_not_disturb_what_programs_read(tmp_path, capsys):
    write_masks(tmp_path / "truth", a=[[0, 1]])
    write_masks(tmp_path / "found", a=[[0, 1]], b=[[0, 1]])
    arguments = ["score", "--task", "semantic", str(tmp_path / "truth"), str(tmp_path / "found"), "--format", "json"]
    assert main(arguments) == 0
    text = capsys.readouterr()
    assert len(json.loads(text.out)["notes"]) == 1
    assert "without a partner" in text.err


def test_help_promises_what_score_does(capsys):
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    assert "average precision," not in capsys.readouterr().out.replace("\n", " ")


def test_predictions_without_a_partner_are_counted_in_notes(tmp_path, capsys):
    write_masks(tmp_path / "truth", a=[[0, 1]])
    write_masks(tmp_path / "found", a=[[0, 1]], b=[[0, 1]], c=[[0, 1]])
    figures, text = semantic_figures(tmp_path, capsys)
    assert figures["mIoU"] == 1
    assert len(figures["notes"]) == 1
    assert f"note: 2 masks of {tmp_path / 'found'} without a partner left out: b, c" in text


def test_unknown_task():
    with pytest.raises(ValueError, match="expected detection, instance, boundary, semantic"):
        main_score("boxes", "a", "b")
