"""Weights and what travels with them; what is refused."""

import os
import pickle
import zipfile

import pytest
import torch
import torchvision

from vision.data.resize import Preprocess
from vision.engine import files
from vision.engine.checkpoint import load, read_weights, save, transfer
from vision.models import build_model
from vision.structures import ClassMap

OPTIONS = {"width": 4, "depth": 2}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build_model("unet", ClassMap(("cell", "wall", "rest"), ids=(1, 5, 9)), **OPTIONS)
    model.preprocess = Preprocess((48, 32), "stretch", 7)
    return model.eval()


def test_a_loaded_model_is_the_saved_one(model, tmp_path):
    path = save(model, tmp_path / "model.safetensors", metric={"mIoU": 0.5})
    again = load(path)
    image = torch.rand(1, 3, 37, 41)
    with torch.no_grad():
        torch.testing.assert_close(again(image).logits, model(image).logits, rtol=0, atol=0)
    assert (again.classes, again.preprocess, again.arguments) == (model.classes, model.preprocess, model.arguments)
    assert not again.training
    assert read_weights(path)[1]["metric"] == {"mIoU": 0.5}


def test_half_precision_is_half_as_large_and_close(model, tmp_path):
    whole = save(model, tmp_path / "whole.safetensors")
    half = save(model, tmp_path / "half.safetensors", half=True)
    assert half.stat().st_size < 0.7 * whole.stat().st_size  # the headers are of one size
    for name, value in load(half).state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-3)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".pth", ".pkl"])
@pytest.mark.parametrize("kind", ["pickle", "zip"])
def test_a_pickle_is_refused_and_not_executed(tmp_path, monkeypatch, suffix, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights{suffix}"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"model": Bomb()}, path)
        assert zipfile.is_zipfile(path)
    with pytest.raises(ValueError, match=r"refused|not a readable safetensors"):
        load(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_name(model, tmp_path, keep):
    path = save(model, tmp_path / "model.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load(path)


def test_foreign_safetensors_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not name a model"):
        load(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no such file"):
        load(tmp_path / "absent.safetensors")


def test_another_class_count_leaves_the_class_layers_and_says_so(model, tmp_path):
    path = save(model, tmp_path / "model.safetensors")
    other = build_model("unet", 5, **OPTIONS)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    report = transfer(other, path)
    assert report.mismatched
    assert not report.missing
    assert not report.unused
    for name, value in other.state_dict().items():
        expected = before[name] if name in report.mismatched else model.state_dict()[name]
        torch.testing.assert_close(value, expected, rtol=0, atol=0)
    for name in report.mismatched:
        assert name in str(report)


def test_weights_of_another_model_are_refused(model, tmp_path):
    path = save(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="a checkpoint of 'unet'"):
        transfer(build_model("yolo_n", 3), path)


def test_a_header_that_lies_is_refused(model, tmp_path):
    model.arguments = {**model.arguments, "width": 8}
    with pytest.raises(ValueError, match="do not fit unet with 3 classes"):
        load(save(model, tmp_path / "model.safetensors"))
    model.arguments = {"name": "unheard_of"}
    with pytest.raises(ValueError, match="unheard_of"):
        load(save(model, tmp_path / "other.safetensors"))


def test_a_full_disk_leaves_the_previous_file(model, tmp_path, monkeypatch):
    path = save(model, tmp_path / "model.safetensors")
    before = path.read_bytes()
    monkeypatch.setattr(files, "_sync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left on device; the previous file is untouched"):
        save(model, path, metric={"mIoU": 1.0})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]  # nothing half-written beside it


SMALL_RCNN = {"backbone": "resnet18", "width": 16, "hidden": 16}
# model, its options, the network whose weights start it, and one tensor of each: theirs, ours
STARTED = [
    ("retinanet_resnet18_fpn", {"width": 64, "depth": 1}, "resnet18", "layer4.1.bn2.bias",
     "backbone.layer4.1.bn2.bias"),
    ("faster_rcnn", {**SMALL_RCNN, "backbone_options": {"norm": "frozen_batch"}}, "resnet18", "conv1.weight",
     "backbone.conv1.weight"),
    ("faster_rcnn_c4", {"backbone": "resnet18"}, "resnet18", "layer4.0.conv1.weight",
     "stages.0.head.layer4.0.conv1.weight"),
    ("multi_task", {"backbone": "resnet18", "sharing": "soft", "width": 64, "depth": 1}, "resnet18", "conv1.weight",
     "semantic_backbone.conv1.weight"),
    ("ssd300_vgg16", {}, "vgg16", "features.28.bias", "backbone.backbone.features.28.bias"),
    ("ssdlite320_mobilenet_v3_small", {"reduced": False}, "mobilenet_v3_small", "features.12.0.weight",
     "backbone.backbone.features.12.0.weight"),
    ("ssdlite320_mobilenet_v2", {}, "mobilenet_v2", "features.1.conv.1.weight",
     "backbone.backbone.features.1.block.1.0.weight"),
    ("centernet_mobilenet_v2", {"channels": (16, 16, 16)}, "mobilenet_v2", "features.18.0.weight",
     "backbone.features.18.0.weight"),
    ("unet", {"backbone": "resnet18"}, "resnet18", "layer1.0.conv1.weight", "backbone.layer1.0.conv1.weight"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "network", "theirs", "ours"), STARTED)
def test_a_classification_network_of_torchvision_starts_the_backbone(name, options, network, theirs, ours, tmp_path):
    with torch.device("meta"):
        shapes = torchvision.models.get_model(network).state_dict()
    state = {key: torch.rand(()).to(value.dtype).expand(value.shape) for key, value in shapes.items()}
    torch.save(state, tmp_path / "network.pth")
    model = build_model(name, 3, **options)
    report = transfer(model, tmp_path / "network.pth")
    assert torch.equal(model.state_dict()[ours], state[theirs])
    assert ours in report.loaded
    assert set(report.loaded) | set(report.missing) == set(model.state_dict())
    assert not report.partial


def test_a_file_from_before_pytorch_1_6_is_read_and_one_with_code_refused(tmp_path):
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    model = build_model("fcn", 3, backbone="resnet18")
    transfer(model, tmp_path / "old.pth")
    assert torch.equal(model.backbone.conv1.weight, state["conv1.weight"])
    torch.save({"model": Bomb()}, tmp_path / "bomb.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="refused, it holds more than tensors"):
        transfer(model, tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fcn", {"backbone": "resnet34"}, r"r18\.pth: does not fit the backbone of 'fcn'.*model_options\.backbone"),
        ("fcn", {"backbone": "resnet18", "in_channels": 1}, "does not fit the backbone of 'fcn'.*conv1"),
        ("unet", OPTIONS, "does not fit the backbone of 'unet'"),
    ],
)  # fmt: skip
def test_a_classification_network_of_another_backbone_is_refused(name, options, message, tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    with pytest.raises(ValueError, match=message):
        transfer(build_model(name, 3, **options), tmp_path / "r18.pth")
    with pytest.raises(ValueError, match="no model of this package can be made of them"):
        load(tmp_path / "r18.pth")


def test_weights_of_another_variant_are_named_as_such(tmp_path):
    options = {**SMALL_RCNN, "backbone_options": {"width": 0.25}}
    path = save(build_model("faster_rcnn", 3, recipe="v2", **options), tmp_path / "second.safetensors")
    report = transfer(build_model("faster_rcnn", 3, **options), path)
    assert report.partial
    assert str(report).endswith("weights of another variant: recipe is 'v2' there, the default here")
    assert not transfer(build_model("faster_rcnn", 5, recipe="v2", **options), path).partial  # other classes only
