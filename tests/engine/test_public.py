"""Public checkpoints: random weights of torchvision's models, taken for the published files."""

import urllib.error

import pytest
import torch
from torchvision.models import detection, segmentation

from vision.data.resize import Preprocess
from vision.engine import public
from vision.engine.checkpoint import load

TINY = {"weights": None, "weights_backbone": None}


def test_manifest_is_complete():
    for name, entry in public.public_weights().items():
        assert set(entry) == {
            "source", "url", "sha256", "licence", "classes", "preprocess", "published", "evaluated_on",
        }, name  # fmt: skip
        assert entry["url"].endswith(f"-{entry['sha256']}.pth")
        assert len(entry["sha256"]) == 8
        assert Preprocess(**entry["preprocess"])
        assert entry["source"].split(":")[1] == name.split("-")[0]
        assert all(0 < value < 1 for value in entry["published"].values())


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large-coco", "fasterrcnn_mobilenet_v3_large_320_fpn-coco"])
def test_detectors_load_with_classes_and_preprocessing(name, tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_CACHE", str(tmp_path))
    torch.manual_seed(0)
    theirs = getattr(detection, name.split("-")[0])(**TINY, num_classes=91)
    file = tmp_path / public.public_weights()[name]["url"].rsplit("/", 1)[1]
    # published files come from frozen norms, which count no batches
    state = {key: value for key, value in theirs.state_dict().items() if "num_batches" not in key or "ssd" in name}
    torch.save(state, file)
    model = load(name)
    assert (len(model.classes), model.classes.names[11], model.classes.ids[11]) == (80, "stop sign", 13)
    assert model.preprocess.size == tuple(public.public_weights()[name]["preprocess"]["size"])
    assert not model.training


def test_segmenter_loads(tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_CACHE", str(tmp_path))
    name = "lraspp_mobilenet_v3_large-coco_voc_labels"
    theirs = segmentation.lraspp_mobilenet_v3_large(**TINY, num_classes=21)
    torch.save(theirs.state_dict(), tmp_path / public.public_weights()[name]["url"].rsplit("/", 1)[1])
    model = load(name)
    assert model.classes.names[:2] == ("background", "aeroplane")
    assert model.task == "semantic"


def test_without_a_network_it_says_what_it_wanted(tmp_path, monkeypatch):
    def offline(url, *_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("VISION_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ValueError, match=r"ssd300_vgg16_coco-b556d3b4\.pth could not be downloaded.*by hand"):
        load("ssd300_vgg16-coco")


def test_another_file_than_expected_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_CACHE", str(tmp_path / "cache"))
    (tmp_path / "wrong.pth").write_bytes(b"something else")
    entry = {**public.public_weights()["ssd300_vgg16-coco"], "url": (tmp_path / "wrong.pth").as_uri()}
    monkeypatch.setattr(public, "public_weights", lambda: {"ssd300_vgg16-coco": entry})
    with pytest.raises(ValueError, match="not the expected file"):
        public.download("ssd300_vgg16-coco")
    assert not list((tmp_path / "cache").iterdir())  # nothing half-written stays


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="fasterrcnn_resnet50_fpn_v2-coco"):
        load("fasterrcnn_resnet50-coco")
