"""`evaluate` against pycocotools and numpy, with models whose answers are drawn from a seed."""

import contextlib
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from seeded import CLASSES, SIZE, Guesser, Numbered, Painter, SurePainter, painted

from vision.engine import evaluate as evaluate_module
from vision.engine.evaluate import evaluate
from vision.engine.inference import Inference
from vision.metrics import OutlineOptions, SurfaceDistance
from vision.structures import ClassMap, Target


def coco_reference(results):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    data, annotations = Numbered(), []
    for index in range(len(data)):
        target = data.target(index)
        for box, label, crowd, area in zip(target.boxes.tolist(), target.labels, target.crowd, target.area):
            annotations.append({
                "id": len(annotations) + 1, "image_id": data.image_id(index), "category_id": CLASSES.ids[label],
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "area": float(area), "iscrowd": int(crowd),
            })  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": data.image_id(i), "height": SIZE[0], "width": SIZE[1]} for i in range(len(data))],
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in zip(CLASSES.ids, CLASSES.names)],
        }
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats


def test_boxes_equal_pycocotools_on_the_written_file(tmp_path):
    evaluation = evaluate(Guesser(), Numbered(), out=tmp_path / "val", batch_size=4, progress=False, device="cpu")
    results = json.loads((tmp_path / "val" / "predictions.json").read_text())
    expected = coco_reference(results)
    assert 0.1 < expected[0] < 0.9
    written = json.loads((tmp_path / "val" / "metrics.json").read_text())
    names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100"]
    names += ["AR_small", "AR_medium", "AR_large"]
    for name, value in zip(names, expected):
        assert written[name] == (None if value == -1 else pytest.approx(value, abs=1e-6)), name
    assert evaluation.headline == ("AP", pytest.approx(expected[0], abs=1e-6))
    assert set(written["per_class"]) == set(CLASSES.names)
    assert "AP50" in (tmp_path / "val" / "results.md").read_text()


class Cutter(Guesser):
    """Its boxes, filled, as masks."""

    task = "instance"

    def decode(self, outputs, sizes, **options):
        found = super().decode(outputs, sizes, **options)
        return [replace(one, masks=torch.from_numpy(filled(one.boxes.numpy()))) for one in found]


class Outlined(Numbered):
    """With the boxes, filled, as masks of the objects."""

    tasks = frozenset({"detection", "instance", "semantic"})

    def target(self, index, masks=False, semantic=False):
        target = super().target(index, masks, semantic)
        return replace(target, masks=filled(target.boxes)) if masks else target


def filled(boxes):
    masks = np.zeros((len(boxes), *SIZE), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.round().astype(int).clip(0)):
        mask[top:bottom, left:right] = True
    return masks


@pytest.mark.parametrize(("boundary", "kinds"), [(False, ["bbox", "segm"]), (True, ["bbox", "segm", "boundary"])])
def test_instances_are_measured_by_boundary_on_request(boundary, kinds, tmp_path):
    options = {"max_detections": 50, "progress": False, "device": "cpu"}
    evaluation = evaluate(Cutter(), Outlined(), boundary=boundary, out=tmp_path / "val", **options)
    found = evaluation.to_dict()
    assert [kind for kind in ("bbox", "segm", "boundary") if kind in found] == kinds
    assert all(0 < found[kind]["AR_50"] < 1 for kind in kinds)
    assert evaluation.headline == ("mask_AP", found["segm"]["AP"])
    for text in (evaluation.table(), evaluation.markdown(), (tmp_path / "val" / "results.md").read_text()):
        assert ("Boundaries of masks" in text) == boundary
    assert json.loads(evaluation.table("json")) == json.loads((tmp_path / "val" / "metrics.json").read_text()) == found


def test_options_that_do_not_fit_the_model_are_refused():
    with pytest.raises(ValueError, match="boundary AP is of instances' masks; this model's task is 'detection'"):
        evaluate(Guesser(), Numbered(), boundary=True, progress=False, device="cpu")
    with pytest.raises(ValueError, match="outlines are measured of semantic maps"):
        evaluate(Guesser(), Numbered(), outlines=OutlineOptions(), progress=False, device="cpu")
    with pytest.raises(ValueError, match="per_image is of semantic maps; this model's task is 'detection'"):
        evaluate(Guesser(), Numbered(), per_image=True, progress=False, device="cpu")


class Both(Guesser):
    """A model of two tasks, whose views remember how they were run."""

    def __init__(self):
        super().__init__()
        self.parts = [Guesser(), SurePainter()]

    def views(self):
        return self.parts


@pytest.mark.parametrize("folder", [None, "val"])
def test_a_model_of_several_tasks_takes_the_options_of_each(folder, tmp_path, monkeypatch):
    taken = {}

    class Spy(Inference):
        def __init__(self, model, **options):
            taken[model.task] = options
            super().__init__(model, **{**options, "tile": None})  # Painter has no weights to tile with

    monkeypatch.setattr(evaluate_module, "Inference", Spy)
    out = folder and tmp_path / folder
    options = {
        "tile": 128,
        "iou_threshold": 0.4,
        "outlines": OutlineOptions(percentile=50),
        "analyse": True,
        "per_image": True,
        "out": out,
    }
    evaluation = evaluate(Both(), Numbered(), progress=False, device="cpu", **options)
    assert taken["detection"]["iou_threshold"] == 0.4
    assert (taken["detection"]["tile"], taken["semantic"]["tile"]) == (None, 128)
    assert "hd50" in evaluation.to_dict()["surface"]
    if out:
        assert {path.name for path in out.iterdir()} == {"detection", "semantic"}
    with pytest.raises(ValueError, match="boundary AP is of instances' masks"):
        evaluate(Both(), Numbered(), boundary=True, progress=False, device="cpu")


def test_an_undefined_headline_is_no_zero():
    class Nothing(Numbered):
        def target(self, index, masks=False, semantic=False):
            return Target(np.zeros((0, 4)), np.zeros(0, np.int64), image_id=self.image_id(index), size=SIZE)

    name, value = evaluate(Guesser(), Nothing(), progress=False, device="cpu").headline
    assert name == "AP" and math.isnan(value)


@pytest.mark.parametrize(("most", "names"), [(1, {"AR_1"}), (5, {"AR_1", "AR_5"}), (300, {"AR_1", "AR_10", "AR_300"})])
def test_recalls_are_named_after_the_limits_that_held(most, names):
    found = evaluate(Guesser(), Numbered(), max_detections=most, progress=False, device="cpu").to_dict()
    assert {name for name in found if name.startswith("AR_") and name[3:].isdigit()} == names


def test_rules_of_voc(tmp_path):
    evaluation = evaluate(
        Guesser(), Numbered(), out=tmp_path / "val", progress=False, device="cpu", protocol="voc", analyse=True
    )
    written = json.loads((tmp_path / "val" / "metrics.json").read_text())
    assert written["protocol"] == "voc"
    assert {"curves", "confusion", "errors"} <= written.keys()
    assert 0 < written["AP"] != written["AP_11_point"] < 1
    assert evaluation.headline == ("AP", written["AP"])
    text = (tmp_path / "val" / "results.md").read_text()
    assert "AP_11_point" in text and "dAP" in text


def test_class_maps_equal_numpy_and_are_written(tmp_path):
    evaluation = evaluate(Painter(), Numbered(), out=tmp_path / "val", batch_size=4, progress=False, device="cpu")
    matrix = np.zeros((3, 3))
    for index in range(len(Numbered())):
        truth, guess = Numbered().target(index, semantic=True).semantic.astype(int), painted(index)
        np.add.at(matrix, (truth[truth != 255], guess[truth != 255]), 1)
        saved = cv2.imread(str(tmp_path / "val" / "masks" / f"{index:03d}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(saved, guess)
    iou = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    assert evaluation.headline == ("mIoU", pytest.approx(iou.mean(), abs=1e-12))
    written = json.loads((tmp_path / "val" / "metrics.json").read_text())
    assert written["per_class"]["bee"]["IoU"] == pytest.approx(iou[1], abs=1e-12)
    assert written["pixel_accuracy"] == pytest.approx(np.diag(matrix).sum() / matrix.sum(), abs=1e-12)


def test_images_of_equal_name_in_other_folders_are_all_written(tmp_path):
    data = Numbered()
    data.image_path = lambda index: Path(f"{index}/same.jpg")
    evaluate(Painter(), data, out=tmp_path / "val", progress=False, device="cpu")
    assert len(list((tmp_path / "val" / "masks").iterdir())) == len(data)


def test_outlines_of_class_maps_on_request():
    found = evaluate(SurePainter(), Numbered(), analyse=True, progress=False, device="cpu").to_dict()
    assert set(found) >= {"semantic", "surface"}
    expected = SurfaceDistance(CLASSES)
    for index in range(len(Numbered())):
        truth = torch.from_numpy(Numbered().target(index, semantic=True).semantic).long()
        expected.update(torch.from_numpy(painted(index))[None], truth[None])
    assert found["surface"] == expected.compute().to_dict()
    assert found["surface"]["per_class"]["bee"]["hd95"] > 0


def test_batch_size_and_workers_change_nothing():
    first = evaluate(Guesser(), Numbered(), batch_size=1, progress=False, device="cpu").to_dict()
    assert evaluate(Guesser(), Numbered(), batch_size=16, workers=2, progress=False, device="cpu").to_dict() == first


def test_model_is_left_as_it_was():
    model = Guesser().train()
    evaluate(model, Numbered(), progress=False, device="cpu")
    assert model.training


def test_other_classes_are_refused():
    model = Guesser()
    model.classes = ClassMap(("ant", "bee"))
    with pytest.raises(ValueError, match=r"2 classes.*has 3"):
        evaluate(model, Numbered(), progress=False)


def test_missing_annotations_are_named():
    data = Numbered()
    data.tasks = frozenset({"semantic"})
    with pytest.raises(ValueError, match="no detection annotations"):
        evaluate(Guesser(), data, progress=False)
