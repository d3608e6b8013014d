"""Exports: decoding of fixed shapes equals ours; ONNX files say what they are."""

import json
import re

import numpy as np
import pytest
import torch
from small_models import small_model

from vision.data.resize import Preprocess
from vision.engine.export import Exported, export

FAMILIES = [
    "yolo_n", "retinanet_resnet18_fpn", "fcos_resnet18_fpn", "ssd300_vgg16", "ssdlite320_mobilenet_v2",
    "centernet_resnet50", "faster_rcnn", "cascade_mask_rcnn", "panoptic_fpn", "multi_task", "unet", "lraspp",
]  # fmt: skip


def sure(name):
    """A small model; untrained, it scores many boxes alike, so a detector's scores are drawn: in what order equal ones
    come is left open."""
    model = small_model(name).eval()
    if hasattr(model, "propose"):
        plain = model.propose

        def propose(outputs, sizes, *count):
            boxes, scores, labels = plain(outputs, sizes, *count)
            order = torch.randperm(scores.shape[1], generator=torch.Generator().manual_seed(1))
            return boxes, ((order + 1) / len(order)).expand(scores.shape), labels

        model.propose = propose
    return model


def spread(name):
    """A small model whose class scores are far apart, so that rounding does not change their order."""
    model = small_model(name).eval()
    final = re.compile(
        r"class_branches\.\d+\.\d+\.weight|class_logits\.weight|class_predictors|heatmap|cls_score\.weight"
    )
    with torch.no_grad():
        images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
        outputs = model(images)
        outputs = getattr(outputs, "detection", outputs)
        scores = outputs.heatmap if hasattr(outputs, "heatmap") else getattr(outputs, "logits", None)
        deviation = (outputs.stages[-1].logits if scores is None else scores).std()
        for part, values in model.named_parameters():
            if final.search(part) and values.ndim > 1:
                values.mul_(1 / deviation)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_results_of_fixed_shapes_are_those_of_decode(name):
    model = sure(name)
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[64, 96]] * 2)
    with torch.no_grad():
        outputs = model(images)
        found = Exported(model, score_threshold=0.6).eval()(images)
        if model.task == "semantic":
            expected = model.decode(outputs, sizes, scores=True)
            torch.testing.assert_close(found["probabilities"], torch.stack([one.scores for one in expected]))
            return
        expected = model.decode(outputs, sizes, score_threshold=0.6)
    assert found["boxes"].shape[:2] == found["scores"].shape == found["labels"].shape
    assert sum(len(one) for one in expected) > 0
    for i, one in enumerate(expected):
        there = found["labels"][i] >= 0
        assert there.sum() == len(one)
        torch.testing.assert_close(found["scores"][i][there], one.scores)
        torch.testing.assert_close(found["boxes"][i][there], one.boxes)
        assert torch.equal(found["labels"][i][there], one.labels)
        assert not found["scores"][i][~there].any()
    if model.task == "instance":
        assert found["masks"].shape[:2] == found["scores"].shape


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
    model = small_model("unet")
    (tmp_path / "mine.onnx").write_text("precious")
    with pytest.raises(ValueError, match="exists and is kept"):
        export(model, tmp_path / "mine.onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed; pip install 'vision-suite\[export\]'"):
        export(model, tmp_path / "other.onnx")


@pytest.mark.parametrize(
    "name", ["unet", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != "unet")]
)
def test_an_onnx_file_gives_the_same_results_and_says_what_it_is(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = spread(name)
    model.preprocess = Preprocess((64, 96), "letterbox")
    differences = export(model, tmp_path / "new" / "model.onnx", score_threshold=0.02)
    for output, difference in differences.items():
        if output != "boxes" or not name.startswith("ssdlite"):  # of its hundreds some score alike: either may stay
            assert difference < 1e-2, differences
    session = onnxruntime.InferenceSession(tmp_path / "new" / "model.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == model.classes.to_dict()
    assert Preprocess.from_dict(json.loads(about["preprocess"])) == model.preprocess
    assert about["task"] == json.dumps(model.task)
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", [1, 3, 64, 96])
    assert [one.name for one in session.get_outputs()] == list(differences)
    picture = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 96), np.uint8)
    found = dict(zip(differences, session.run(None, {"images": picture})))
    assert (found["labels"] >= 0).any() if "labels" in found else found["probabilities"].any()
