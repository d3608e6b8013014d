"""Public checkpoints: what the manifest says of them, and states of torchvision's models in place of the files."""

import hashlib
import math
import urllib.error

import pytest
import torch
import torchvision

from vision.backbones import build_backbone
from vision.data.resize import Preprocess
from vision.engine import public
from vision.engine.checkpoint import load, transfer
from vision.models import build_model
from vision.pretrained.torchvision_backbones import load_backbone_state

# a state's shapes are checked by loading it into a model without memory, which is a no-op that PyTorch remarks upon
pytestmark = pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter:UserWarning")

MANIFEST = public.public_weights()
MODELS = [name for name in MANIFEST if not public.is_backbone(name)]
BACKBONES = [name for name in MANIFEST if public.is_backbone(name)]
FIGURES = {
    "AP": "box_map", "mask_AP": "mask_map", "mIoU": "miou", "pixel_accuracy": "pixel_acc", "top1": "acc@1",
    "top5": "acc@5",
}  # fmt: skip
HEAVY = ("fcn_resnet101", "deeplabv3_resnet101", "maskrcnn", "fasterrcnn_resnet50")  # more than two seconds


def state_of(name):
    """A state dict with the keys and shapes of the published file, each tensor of one random value."""
    source = MANIFEST[name]["source"].removeprefix("torchvision:")
    options = {} if public.is_backbone(name) else {"weights_backbone": None}
    if name.endswith("voc_labels") and not source.startswith("lraspp"):
        options["aux_loss"] = True
    with torch.device("meta"):
        shapes = torchvision.models.get_model(source, weights=None, **options).state_dict()
    # published detectors come from frozen norms, which count no batches; but not the newer ones
    frozen = name.endswith("-coco") and "v2" not in source and "ssdlite" not in source
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand((), generator=generator).to(value.dtype).expand(value.shape)
        for key, value in shapes.items()
        if not (frozen and key.endswith("num_batches_tracked"))
    }


def test_manifest_is_complete():
    for name, entry in MANIFEST.items():
        assert set(entry) == {
            "source", "url", "sha256", "licence", "classes", "preprocess", "published", "evaluated_on",
        }, name  # fmt: skip
        assert entry["url"].endswith(f"-{entry['sha256']}.pth")
        assert len(entry["sha256"]) == 8
        assert Preprocess(**entry["preprocess"]) if name in MODELS else entry["preprocess"] is None
        assert entry["source"].split(":")[1] == name.split("-")[0]


@pytest.mark.parametrize("name", MANIFEST)
def test_manifest_says_what_torchvision_says(name):
    entry = MANIFEST[name]
    enum = torchvision.models.get_model_weights(entry["source"].removeprefix("torchvision:"))
    (weights,) = [weights for weights in enum if weights.url == entry["url"]]
    (figures,) = weights.meta["_metrics"].values()
    published = {ours: figures[theirs] / 100 for ours, theirs in FIGURES.items() if theirs in figures}
    assert entry["published"] == pytest.approx({key: value for key, value in published.items() if value == value})
    assert len(weights.meta["categories"] or range(1000)) == {"coco": 91, "voc": 21, "imagenet": 1000}[entry["classes"]]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name.startswith(HEAVY) else name for name in MODELS]
)
def test_models_load_with_classes_and_preprocessing(name):
    model, header = public.public_checkpoint(name, state_of(name))
    if MANIFEST[name]["classes"] == "coco":
        assert (len(model.classes), model.classes.names[11], model.classes.ids[11]) == (80, "stop sign", 13)
    else:
        assert (len(model.classes), model.classes.names[:2]) == (21, ("background", "aeroplane"))
        assert model.task == "semantic"
    assert header["preprocess"] == Preprocess(**MANIFEST[name]["preprocess"]).to_dict()
    assert header["metric"] == MANIFEST[name]["published"]


@pytest.mark.parametrize("name", BACKBONES)
def test_classification_networks_fit_the_backbone_of_their_name(name):
    with torch.device("meta"):
        backbone = build_backbone(name.split("-")[0])
    load_backbone_state(backbone, state_of(name))
    with pytest.raises(ValueError, match="only starts the backbone"):
        public.public_checkpoint(name)


def cached(name, state, folder, monkeypatch):
    """The file of `name` in the cache `folder`, as if it were the published one."""
    monkeypatch.setenv("VISION_CACHE", str(folder))
    file = folder / MANIFEST[name]["url"].rsplit("/", 1)[1]
    torch.save(state, file)
    entry = {**MANIFEST[name], "sha256": hashlib.sha256(file.read_bytes()).hexdigest()[:8]}
    monkeypatch.setattr(public, "public_weights", lambda: {**MANIFEST, name: entry})
    return file


def test_a_file_in_the_cache_is_loaded_by_name(tmp_path, monkeypatch):
    name = "ssdlite320_mobilenet_v3_large-coco"
    cached(name, state_of(name), tmp_path, monkeypatch)
    model = load(name)
    assert model.preprocess.size == (320, 320)
    assert not model.training


def test_a_classification_network_starts_a_backbone_by_name(tmp_path, monkeypatch):
    state = state_of("mobilenet_v2-imagenet")
    cached("mobilenet_v2-imagenet", state, tmp_path, monkeypatch)
    model = build_model("deeplab_v3", 3, backbone="mobilenet_v2", width=16)
    transfer(model, "mobilenet_v2-imagenet")
    assert torch.equal(model.backbone.features[0][0].weight, state["features.0.0.weight"])
    with pytest.raises(ValueError, match="no model of this package can be made of them"):
        load("mobilenet_v2-imagenet")


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_a_wrong_or_truncated_file_in_the_cache_is_refused(tmp_path, monkeypatch, keep):
    name = "ssdlite320_mobilenet_v3_large-coco"
    file = cached(name, {"a": torch.zeros(1000)}, tmp_path, monkeypatch)
    content = file.read_bytes()
    file.write_bytes(content[: math.floor(keep * len(content))])
    with pytest.raises(ValueError, match=r"a79551df\.pth is not the expected file.*delete it and try again"):
        load(name)
    torch.save({"a": torch.ones(1000)}, file)
    with pytest.raises(ValueError, match="delete it and try again"):
        load(name)


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
    entry = {**MANIFEST["ssd300_vgg16-coco"], "url": (tmp_path / "wrong.pth").as_uri()}
    monkeypatch.setattr(public, "public_weights", lambda: {"ssd300_vgg16-coco": entry})
    with pytest.raises(ValueError, match="not the expected file"):
        public.download("ssd300_vgg16-coco")
    assert not list((tmp_path / "cache").iterdir())  # nothing half-written stays


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="fasterrcnn_resnet50_fpn_v2-coco"):
        load("fasterrcnn_resnet50-coco")
