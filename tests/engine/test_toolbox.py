"""The training toolbox as settings of a run: two lines of YAML each, refused when wrong, resumed to the bit."""

import io

import pytest
import torch
import yaml

from vision.data import open_dataset
from vision.data.loader import build_loader
from vision.data.resize import Preprocess
from vision.engine.batch_size import fitting_batch_size
from vision.engine.options import config_from_dict, train_parser
from vision.engine.train import train
from vision.models import build_model

TOOLS = {
    "swa": "swa: {start: 0.25, lr: 0.2}",
    "l1": "regularize: {l1: 0.01}",
    "activity": "regularize: {activity: 0.1, activity_kind: l1}",
    "constraint": "regularize: {constraint: max_norm, max_norm: 0.5}",
    "dropout": "regularize: {dropout: 0.1, dropout_kind: block, block_size: 3}",
    "stochastic_depth": "regularize: {drop_path: 0.2}",
    "noise": "regularize: {input_noise: 0.1, weight_noise: 0.05}",
    "clipping": "{clip_norm: 1.0, regularize: {clip_value: 0.1}}",
    "batch_norm": "regularize: {batch_norm_images: 8}",
    "batch_growth": "batch_growth: {at: [0.5], factor: 2, rule: sqrt}",
    "optimiser": "optim: {name: rmsprop, lr: 0.001, layer_decay: 0.8, backbone_multiplier: 0.5}",
    "schedule": "schedule: {name: one_cycle, rise: 0.4, cycle_momentum: [0.95, 0.85]}",
    "plateau": "schedule: {name: plateau, patience: 0, gamma: 0.5}",
    "losses": "loss: {ce: {label_smoothing: 0.1, class_weight: balanced}, boundary: {weight: 0.01, from_epoch: 1}}",
}
RUN = {
    "model": "unet", "model_options": {"width": 8, "depth": 2},
    "data": "shapes:count=4,size=32,seed=0", "image_size": 32, "batch_size": 2, "epochs": 3, "validate_every": 1,
    "precision": "fp32", "threads": 1, "cache_gigabytes": 0.0, "save_seconds": 0.0,
}  # fmt: skip


def everything():
    settings = {}
    for name, text in TOOLS.items():
        if name == "stochastic_depth":
            continue  # needs residual blocks, which cost seconds
        for key, value in yaml.safe_load(text).items():
            settings[key] = {**settings.get(key, {}), **value} if isinstance(value, dict) else value
    return settings


@pytest.mark.parametrize("name", TOOLS)
def test_each_tool_is_a_line_of_a_recipe(name):
    content = yaml.safe_load(TOOLS[name])
    resolved = config_from_dict({**RUN, "out": "run", **content}).to_dict()
    for key, value in content.items():
        assert value.items() <= resolved[key].items() if isinstance(value, dict) else resolved[key] == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"schedule": {"name": "linear"}}, "one_cycle"),
        ({"optim": {"name": "lion"}}, "adadelta"),
        ({"regularize": {"constraint": "norm"}}, "unit_norm"),
        ({"regularize": {"l2": 1.0}}, r"'regularize\.l2' is not a setting"),
        ({"regularize": {"dropout": 1.5}}, r"regularize\.dropout = 1\.5 is out of range"),
        ({"batch_growth": {"at": [0.5]}, "epochs": None, "cpu_seconds": 10.0}, "give epochs"),
    ],
)
def test_wrong_settings_are_refused_with_what_is_allowed(content, message):
    with pytest.raises(ValueError, match=message):
        config_from_dict({**RUN, "out": "run", **content})


def test_help_documents_every_setting():
    text = io.StringIO()
    train_parser().print_help(text)
    for flag in ("--swa.start", "--regularize.weight-noise", "--batch-growth.rule", "--find-lr", "--auto-batch"):
        assert flag in text.getvalue()
    assert "--schedule.cycle-momentum" in text.getvalue()


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_resume_with_every_tool_at_once_is_exact(tmp_path):
    settings = {**RUN, **everything()}
    whole = train(**settings, out=str(tmp_path / "whole"))
    train(**settings, out=str(tmp_path / "halved"), stop_after_epochs=2)
    train(out=str(tmp_path / "halved"), resume=True, stop_after_epochs=None)
    states = [torch.load(tmp_path / run / "last.pt", weights_only=True) for run in ("whole", "halved")]
    for part in ("model", "ema", "swa", "optimizer", "schedule", "progress"):
        assert equal(states[0][part], states[1][part]), part
    assert states[0]["swa"]["count"] == 3
    assert whole.steps == 2 + 2 + 1  # epochs of two batches: one a step, in the third both


def test_find_lr(tmp_path):
    result = train(**RUN, out=str(tmp_path / "run"), find_lr=True)
    assert 1e-7 < result.suggested_lr < 1.0
    assert (tmp_path / "run" / "find_lr.svg").is_file()
    assert not (tmp_path / "run" / "best.safetensors").exists()  # nothing was trained


def test_auto_batch_fits_and_leaves_the_model_alone():
    dataset = open_dataset("shapes:count=4,size=32,seed=0", "train", task="semantic")
    model = build_model("unet", dataset.classes, width=8, depth=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def load(size):
        return next(iter(build_loader(dataset, preprocess=Preprocess((32, 32)), batch_size=size, task="semantic")))

    assert fitting_batch_size(model, load, torch.device("cpu"), "fp32", 4) == 4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
