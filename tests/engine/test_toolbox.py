"""The training toolbox as settings of a run: two lines of YAML each, refused when wrong, resumed to the bit."""

import io

import pytest
import torch
import yaml

from vision.data import open_dataset
from vision.data.loader import build_loader
from vision.data.resize import Preprocess
from vision.engine import find_lr as find_lr_module
from vision.engine import train as train_module
from vision.engine.batch_size import batch_limit, choice_told, fitting_batch_size
from vision.engine.checkpoint import load
from vision.engine.config import OptimConfig, TrainConfig
from vision.engine.options import config_from_dict, train_parser
from vision.engine.train import train
from vision.losses.compose import SegmentationLoss
from vision.models import TrainStep, build_model

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
    settings = {"model_options": {"backbone": "csp_n", "widths": [16, 16, 16, 8]}}  # has residual branches to leave out
    for text in TOOLS.values():
        for key, value in yaml.safe_load(text).items():
            together = isinstance(value, dict) and key != "schedule"  # there is one schedule: the last
            settings[key] = {**settings.get(key, {}), **value} if together else value
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
    assert settings["regularize"]["drop_path"] > 0
    whole = train(**settings, out=str(tmp_path / "whole"))
    train(**settings, out=str(tmp_path / "halved"), stop_after_epochs=2)
    train(out=str(tmp_path / "halved"), resume=True, stop_after_epochs=None)
    states = [torch.load(tmp_path / run / "last.pt", weights_only=True) for run in ("whole", "halved")]
    for part in ("model", "ema", "swa", "optimizer", "schedule", "progress"):
        assert equal(states[0][part], states[1][part]), part
    assert states[0]["swa"]["count"] == 3
    assert whole.steps == 2 + 2 + 1  # epochs of two batches: one a step, in the third both


def test_clip_norm_bounds_a_step_of_plain_descent(tmp_path):
    plain = {
        "data": "shapes:count=2,size=32,seed=0", "epochs": 1, "val_split": None, "ema": {"decay": 0},
        "optim": {"name": "sgd", "lr": 0.5, "momentum": 0.0, "weight_decay": 0.0},
        "schedule": {"name": "constant", "warmup": 0},
    }  # fmt: skip
    first = train(**{**RUN, **plain}, out=str(tmp_path / "first")).weights
    before = dict(load(first).named_parameters())
    for limit in (0.001, 0.01):
        result = train(**{**RUN, **plain}, weights=str(first), clip_norm=limit, out=str(tmp_path / str(limit)))
        assert result.steps == 1
        moved = [value - before[name] for name, value in load(result.weights).named_parameters()]
        # one step of descent moves the weights by lr * |gradient|, whose norm is the limit
        assert torch.cat([part.flatten() for part in moved]).norm().item() == pytest.approx(0.5 * limit, rel=0.01)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_label_smoothing_keeps_a_net_from_certainty(smoothing):
    # four classes that the colour tells apart; the loss is least at p_t = 1 - s + s / 4, as targets are (s = 0: at 1)
    labels = torch.arange(4).reshape(1, 4, 1)
    colours = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).float()  # (1, 4, 4, 1)
    net, loss = torch.nn.Conv2d(4, 4, 1), SegmentationLoss({"ce": {"label_smoothing": smoothing}}, 4)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss(net(colours), labels)["cross_entropy"].backward()
        optimizer.step()
    certainty = net(colours).softmax(1).gather(1, labels[:, None])
    if smoothing:
        torch.testing.assert_close(certainty, torch.full((1, 1, 4, 1), 0.85), atol=0.01, rtol=0)
    else:
        assert certainty.min() > 0.99


def of_the_range_test(monkeypatch):
    """The trainer of the range test to come, which takes 12 steps, in a list."""
    trainers, original = [], train_module.find_learning_rate
    monkeypatch.setattr(find_lr_module, "STEPS", 12)
    monkeypatch.setattr(train_module, "find_learning_rate", lambda t: original(trainers.append(t) or t))
    return trainers


def test_find_lr_takes_the_steps_of_training(tmp_path, monkeypatch, capfd):
    trainers, options = of_the_range_test(monkeypatch), {"constraint": "unit_norm"}
    train(
        **RUN, out=str(tmp_path / "run"), find_lr=True, accumulate=2, freeze=["backbone.*"], regularize=options,
        val_split=None,
    )  # fmt: skip
    (trainer,) = trainers
    norms = [weight.flatten(1).norm(dim=1) for weight in trainer.regularizer.changed]
    assert all(torch.allclose(norm, torch.ones_like(norm)) for norm in norms)
    statistics = [module for module in trainer.model.backbone.modules() if hasattr(module, "running_mean")]
    assert statistics
    assert not any(module.running_mean.any() for module in statistics)  # frozen as in training
    assert "find_lr" in capfd.readouterr().err  # a progress bar


def test_a_run_may_follow_find_lr_in_its_folder(tmp_path, monkeypatch):
    of_the_range_test(monkeypatch)
    settings = {**RUN, "out": str(tmp_path / "run"), "epochs": 1, "val_split": None}
    for _ in range(2):
        result = train(**settings, find_lr=True)
    assert 1e-7 < result.suggested_lr < 1.0
    assert {path.name for path in result.folder.iterdir()} == {"find_lr.json", "find_lr.svg"}  # nothing was trained
    train(**settings)
    assert {"find_lr.svg", "best.safetensors", "config.yaml"} <= {path.name for path in result.folder.iterdir()}


def test_a_failed_find_lr_leaves_nothing(tmp_path, monkeypatch):
    forward = TrainStep.forward
    monkeypatch.setattr(TrainStep, "forward", lambda *given: {"x": next(iter(forward(*given).values())) * float("nan")})
    with pytest.raises(ValueError, match="not finite"):
        train(**RUN, out=str(tmp_path / "run"), find_lr=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("images", "accumulate", "expected"), [(1600, 1, 100), (1600, 4, 25), (8, 1, 2), (1, 1, 1), (10**6, 1, 1024)]
)
def test_auto_batch_leaves_an_epoch_its_steps(images, accumulate, expected):
    assert batch_limit(images, accumulate) == expected


def test_auto_batch_says_what_it_chose_and_what_that_means(tmp_path, caplog, capfd):
    settings = {**RUN, "data": "shapes:count=66,size=32", "batch_size": 16, "epochs": 1, "val_split": None}
    with caplog.at_level("INFO", logger="vision"):
        result = train(**settings, out=str(tmp_path / "run"), auto_batch=True, optim={"name": "sgd", "lr": 0.08})
    assert result.steps == 16  # 66 images: batches of 4 are 16 full ones, of 5 only 13
    assert "batches of 4, the most that auto_batch takes of this data set: 66 images are 16 steps" in caplog.text
    assert "the linear rule makes it 0.02" in caplog.text  # 0.08 * 4 / 16
    assert "auto_batch" in capfd.readouterr().err
    config = TrainConfig(batch_size=16, optim=OptimConfig(lr=0.01))
    told = choice_told(4, 8, 128, config)
    assert "batches of 4, all that fits into memory: 128 images are 32 steps" in told
    assert "the square-root rule makes it 0.005" in told


def test_auto_batch_fits_and_leaves_the_model_alone():
    dataset = open_dataset("shapes:count=4,size=32,seed=0", "train", task="semantic")
    model = build_model("unet", dataset.classes, width=8, depth=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def load(size):
        return next(iter(build_loader(dataset, preprocess=Preprocess((32, 32)), batch_size=size, task="semantic")))

    assert fitting_batch_size(model, load, torch.device("cpu"), "fp32", 4) == 4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
