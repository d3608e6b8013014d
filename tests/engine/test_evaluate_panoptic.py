"""`evaluate` of panoptic models: what it returns, prints and writes, and that the files score the same."""

import json
import shutil

import numpy as np
import pytest
import torch

import vision
from vision.cli import main
from vision.data.resize import Preprocess
from vision.engine.checkpoint import save
from vision.engine.evaluate import evaluate
from vision.metrics.score import score_panoptic
from vision.models.base import VisionModel
from vision.structures import Detections, Segmentation

TINY = {
    "backbone": "resnet18", "width": 16, "hidden": 16, "backbone_options": {"width": 0.25},
    "settings": {"per_level": 50, "proposals": 20},
}  # fmt: skip


class Few:
    """The first images of a data set."""

    def __init__(self, dataset, count):
        self.dataset, self.count = dataset, count

    def __len__(self):
        return self.count

    def __getattr__(self, name):
        return getattr(self.dataset, name)


class Nearly(VisionModel):
    """Knows the answers to images in order, one at a time, and forgets some: instances and classes of pixels."""

    task, answers = "panoptic", None

    def __init__(self, dataset):
        super().__init__(dataset.classes)
        self.preprocess = Preprocess((640, 640), "keep")
        self.asked = -1
        Nearly.answers = dataset

    def forward(self, images, targets=None):
        self.asked += len(images)
        return self.asked

    def decode(self, outputs, sizes, **options):
        target = self.answers.target(outputs, masks=True)
        kept = ~target.crowd & (np.arange(len(target)) % 4 != 3)
        scores = torch.linspace(0.95, 0.4, int(kept.sum()))
        masks = torch.from_numpy(target.masks[kept])
        masks[:, ::7] = False
        return [Detections(torch.from_numpy(target.boxes[kept]), scores, torch.from_numpy(target.labels[kept]), masks)]

    def decode_semantic(self, outputs, sizes):
        labels = torch.from_numpy(self.answers.semantic(outputs)).long()
        scores = torch.zeros(256, *labels.shape).scatter_(0, labels[None], 1.0)[: len(self.classes)]
        return [Segmentation(scores.argmax(0), scores)]


@pytest.fixture
def panoptic_data(real_data, tmp_path):
    """Two images of a COCO panoptic data set, and the annotation file of these alone."""
    folder = real_data("coco256")
    source = folder / "annotations" / "panoptic_val2017.json"
    dataset = Few(vision.open_dataset(str(folder), "val", task="panoptic"), 2)
    content = json.loads(source.read_text())
    kept = {dataset.image_id(i) for i in range(2)}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(content))
    (tmp_path / "truth").mkdir()
    for one in content["annotations"]:
        shutil.copy(source.with_suffix("") / one["file_name"], tmp_path / "truth")
    return dataset, truth


def test_files_score_as_the_model_does(panoptic_data, tmp_path):
    dataset, truth = panoptic_data
    evaluation = evaluate(Nearly(dataset), dataset, batch_size=1, out=tmp_path / "out", progress=False)
    figures = evaluation.results["panoptic"].to_dict()
    assert 0.3 < figures["PQ"] < 1
    assert figures["PQ_things"] > 0
    assert figures["PQ_stuff"] > 0
    assert evaluation.headline == ("PQ", figures["PQ"])
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["panoptic"] == figures
    scored = score_panoptic(truth, tmp_path / "out" / "panoptic.json")
    np.testing.assert_array_equal(scored.sums, evaluation.results["panoptic"].sums)
    assert scored.to_dict() == figures


def test_written_segments_describe_their_pixels(panoptic_data, tmp_path):
    dataset, _ = panoptic_data
    evaluate(Nearly(dataset), dataset, batch_size=1, out=tmp_path / "out", progress=False)
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [one["image_id"] for one in content["annotations"]] == [dataset.image_id(i) for i in range(2)]
    for one in content["annotations"]:
        ids = vision.data.image.read_segment_ids(tmp_path / "out" / "panoptic" / one["file_name"])
        assert sorted(np.unique(ids[ids > 0])) == sorted(row["id"] for row in one["segments_info"])
        for row in one["segments_info"]:
            left, top, width, height = row["bbox"]
            mask = ids == row["id"]
            assert mask.sum() == mask[top : top + height, left : left + width].sum() == row["area"]


@pytest.mark.slow
def test_command_line(real_data, tmp_path, capsys):
    folder = real_data("coco256")
    dataset = vision.open_dataset(str(folder), "val", task="panoptic")
    torch.manual_seed(0)
    model = vision.build_model("panoptic_fpn", dataset.classes, **TINY)
    model.preprocess = Preprocess((64, 64), "letterbox")
    save(model, tmp_path / "tiny.safetensors")
    weights, out = str(tmp_path / "tiny.safetensors"), tmp_path / "out"
    command = ["evaluate", "--weights", weights, "--data", str(folder), "--out", str(out), "--max-detections", "3"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "AP50"))
    truth = folder / "annotations" / "panoptic_val2017.json"
    command = ["score", "--task", "panoptic", str(truth), str(out / "panoptic.json"), "--out", str(tmp_path / "s.json")]
    assert main(command) == 0
    assert json.loads((tmp_path / "s.json").read_text()) == json.loads((out / "metrics.json").read_text())["panoptic"]
