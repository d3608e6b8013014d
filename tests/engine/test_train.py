"""What a run does and leaves behind."""

import json
import math

import pytest
import torch
import yaml
from layouts import coco_content, coco_folder
from torch import nn

import vision
from vision.data.check import check_dataset
from vision.engine import trainer as trainer_module
from vision.engine.budget import Plan
from vision.engine.checkpoint import load, read_state, read_weights
from vision.engine.config import TrainConfig
from vision.engine.faults import NonFiniteLoss
from vision.engine.options import config_from_dict
from vision.engine.train import freeze


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_it_promises(tiny):
    result = vision.train(**tiny(epochs=3, validate_every=2))
    folder = result.folder
    assert {path.name.split(".")[0] for path in folder.iterdir()} == {
        "config", "last", "best", "metrics", "results", "events"
    }  # fmt: skip
    assert yaml.safe_load((folder / "config.yaml").read_text())["batch_size"] == 4
    assert [row["step"] for row in rows(folder)] == [2, 4, 6]  # 8 images, batches of 4
    assert ["validation" in row for row in rows(folder)] == [False, True, True]  # every second epoch, and the last
    assert all(math.isfinite(row["loss"]) and row["lr"] > 0 for row in rows(folder))
    _, header = read_weights(result.weights)
    assert header["preprocess"] == {"size": [32, 32], "mode": "stretch", "pad": 114, "scale": 1.0}
    assert header["metric"]["mIoU"] == result.value == result.metrics["mIoU"]
    assert "mIoU" in (folder / "results.md").read_text()
    assert (result.epochs, result.steps) == (3, 6)
    assert result.images_per_cpu_second > 0
    assert load(folder / "last.pt").preprocess == load(result.weights).preprocess


def test_the_loss_falls(tiny):
    settings = tiny(epochs=12, val_split=None, ema={"decay": 0}, optim={"lr": 0.02}, augment={"flip_horizontal": 0.0})
    losses = [row["loss"] for row in rows(vision.train(**settings).folder)]
    assert losses[-1] < 0.8 * losses[0]


def test_an_existing_folder_is_kept(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"exists and is kept as it is.*--resume"):
        vision.train(**tiny())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"data": "/not/there"}, "/not/there"),
        ({"val_split": "nowhere"}, "nowhere"),
        ({"weights": "/not/there.safetensors"}, "not/there.safetensors"),
        ({"freeze": ["nothing.*"]}, "nothing"),
        ({"model_options": {"widht": 3}}, "widht"),
        ({"device": "cuda:99"}, "cuda"),
        ({"loss": {"dise": 1.0}}, "dise"),
        ({"data": ""}, "data"),
    ],
)
def test_bad_input_writes_nothing(tiny, tmp_path, given, named):
    with pytest.raises(ValueError, match=named):
        vision.train(**tiny(**given))
    assert not list(tmp_path.iterdir())


def test_frozen_parameters_and_statistics_stay(tiny):
    initial = vision.train(**tiny("first", epochs=1, val_split=None)).weights
    options = {"weights": str(initial), "freeze": ["backbone.*"], "val_split": None, "ema": {"decay": 0}}
    after = load(vision.train(**tiny("second", epochs=2, **options)).weights).state_dict()
    before = load(initial).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if name.startswith("backbone.")]


def test_freeze_refuses_what_matches_nothing_or_all():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    with pytest.raises(ValueError, match="matches no parameter"):
        freeze(model, ["head.*"])
    with pytest.raises(ValueError, match="leave nothing to train"):
        freeze(model, ["*"])


def test_accumulated_batches_give_the_gradient_of_their_union():
    # without batch norm (statistics of a batch) the mean of two half batches' gradients is that of the whole batch
    torch.manual_seed(0)
    net, images = nn.Conv2d(3, 2, 1), torch.rand(4, 3, 8, 8)
    whole = torch.autograd.grad(net(images).square().mean(), net.weight)[0]
    halves = sum(torch.autograd.grad(net(part).square().mean() / 2, net.weight)[0] for part in images.split(2))
    torch.testing.assert_close(halves, whole)


def test_accumulation_counts_optimiser_steps(tiny):
    result = vision.train(**tiny(epochs=2, batch_size=2, accumulate=3, val_split=None))
    assert result.steps == 4  # 4 batches of 2 an epoch: one group of 3, one of the 1 that is left
    assert read_state(result.folder / "last.pt")["progress"]["images"] == 16


def broken_loss(monkeypatch, when):
    """The model's loss is not a number whenever `when(call)` is true; calls count from 1."""
    calls = [0]
    original = trainer_module.TrainStep.forward

    def forward(self, images, targets):
        calls[0] += 1
        losses = original(self, images, targets)
        if when(calls[0]):
            return {name: value * float("nan") for name, value in losses.items()}
        return losses

    monkeypatch.setattr(trainer_module.TrainStep, "forward", forward)


def test_a_bad_batch_is_kept_named_and_skipped(tiny, monkeypatch, caplog):
    broken_loss(monkeypatch, lambda call: call == 3)
    with caplog.at_level("WARNING", logger="vision"):
        result = vision.train(**tiny(epochs=3, val_split=None))
    faults = list((result.folder / "faults").iterdir())
    assert [path.name for path in faults] == ["step0000002_rank0.pt"]
    content = read_state(faults[0])
    assert len(content["batches"][0]["image_ids"]) == 4
    for name in content["batches"][0]["image_ids"]:
        assert str(name) in caplog.text
    assert all(torch.isfinite(value).all() for value in load(result.weights).state_dict().values())
    assert result.steps == 6


def test_five_bad_batches_in_a_row_stop_the_run(tiny, monkeypatch):
    broken_loss(monkeypatch, lambda call: call > 4)
    with pytest.raises(NonFiniteLoss, match="5 times in a row"):
        vision.train(**tiny(epochs=9, val_split=None))


def test_four_bad_batches_do_not(tiny, monkeypatch):
    broken_loss(monkeypatch, lambda call: call % 5 != 0)
    assert vision.train(**tiny(epochs=5, val_split=None)).steps == 10


class Unchanging:
    """An evaluation that always finds the same."""

    headline = ("mIoU", 0.5)

    @property
    def description(self):
        return {"split": "val"}

    def to_dict(self):
        return {"mIoU": 0.5}

    def markdown(self):
        return "# Evaluation\n\n"


def test_early_stopping(tiny, monkeypatch):
    monkeypatch.setattr(trainer_module, "validate", lambda *_: Unchanging())
    result = vision.train(**tiny(epochs=50, validate_every=1, patience=2))
    assert result.epochs == 3  # the first is the best so far, the next two are no better


def test_a_small_data_set_gets_enough_steps():
    few, many = Plan(TrainConfig(), 13), Plan(TrainConfig(), 7393)
    assert few.total >= 13 * 200
    assert many.epochs == 30
    assert Plan(TrainConfig(epochs=7), 13).total == 91


def test_a_budget_sets_the_number_of_steps():
    plan = Plan(TrainConfig(cpu_seconds=100.0), 10)
    assert plan.total == 0
    plan.measure(1, 1.0, training=20.0, spent=20.0)  # the first step pays for the start: 20 s
    plan.measure(9, 9.0, training=36.0, spent=36.0)  # then 8 steps in 16 s = 2 s each: (100 - 36) / 2 = 32 more
    assert plan.total == 9 + 32
    plan.measure(9, 9.0, training=36.0, spent=36.0, reserve=4.0)  # kept for validation
    assert plan.total == 9 + 30


def test_a_budget_knows_that_small_images_cost_less():
    # steps cost 1 s for a work of 0.25 while sizes vary, so 4 s at full size in the last half: of N steps N/2 cost 1 s
    # and N/2 cost 4 s, 2.5 N = 100 s
    plan = Plan(TrainConfig(cpu_seconds=100.0, plain_share=0.5), 10, early=0.25)
    plan.measure(0, 0.0, training=0.0, spent=0.0)
    plan.measure(8, 2.0, training=8.0, spent=8.0)
    assert plan.total == 40
    plan.measure(20, 5.0, training=20.0, spent=20.0)
    assert plan.total == 40
    plan.measure(30, 15.0, training=60.0, spent=60.0)  # within the last half: 40 s are 10 more steps of 4 s
    assert plan.total == 40


def test_a_run_on_a_budget_keeps_to_it(tiny):
    result = vision.train(**tiny(epochs=None, cpu_seconds=1.5))
    assert 0.5 < result.cpu_seconds < 3.0
    assert result.steps > 2
    assert result.value is not None


def test_a_budget_that_turns_out_to_be_spent_at_the_end_of_an_epoch_still_ends_in_a_validation(tiny, monkeypatch):
    measure = Plan.measure

    def spent_in_the_third_epoch(plan, step, *given, **named):
        measure(plan, step, *given, **named)
        plan.total = step if step >= 5 else 1000

    monkeypatch.setattr(Plan, "measure", spent_in_the_third_epoch)
    result = vision.train(**tiny(epochs=None, cpu_seconds=60.0))  # epochs of 2 steps: step 6 is an epoch's last
    assert (result.steps, result.epochs) == (6, 3)
    assert result.value is not None


def test_multi_scale_and_class_weights_and_sampling(tiny):
    result = vision.train(
        **tiny(multi_scale=[0.5, 2.0], sampling={"class_weights": "balanced", "name": "uniform"}, val_split=None)
    )
    assert all(math.isfinite(row["loss"]) for row in rows(result.folder))


def test_a_detector_trains(tiny):
    result = vision.train(
        **tiny(model="yolo_n", model_options={}, data="shapes:count=4,size=64", image_size=64, epochs=2, batch_size=2)
    )
    assert result.metric == "AP"
    assert load(result.weights).task == "detection"


def test_splits_of_different_classes_are_refused_before_anything_is_written(tiny, tmp_path):
    content = coco_content()
    coco_folder(tmp_path / "data", content)
    content["categories"].append({"id": 95, "name": "owl"})
    coco_folder(tmp_path / "data", content, "val")
    with pytest.raises(ValueError, match=r"2 classes \(cat, dog\).* 3 \(cat, dog, owl\)"):
        vision.train(**tiny(data=str(tmp_path / "data"), model="yolo_n", model_options={}))
    assert not (tmp_path / "run").exists()
    problems = [problem for problem in check_dataset(tmp_path / "data") if problem.where == "split val"]
    assert [(p.severity, p.value, p.expected) for p in problems] == [
        ("error", "classes cat, dog, owl", "cat, dog as in split train")
    ]


def test_a_missing_validation_split_says_how_to_do_without(tiny, tmp_path):
    coco_folder(tmp_path / "data")
    with pytest.raises(ValueError, match=r"train:80% and train:-20%; to train without validation: --val-split null"):
        vision.train(**tiny(data=str(tmp_path / "data"), model="yolo_n", model_options={}))


def test_paths_and_files_are_settings_too(tiny, tmp_path):
    settings = tiny("from_file", epochs=1)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({k: v for k, v in settings.items() if k != "out"}))
    result = vision.train(tmp_path / "mine.yaml", out=tmp_path / "from_file")
    assert (result.epochs, result.folder, result.finished) == (1, tmp_path / "from_file", True)
    with pytest.raises(ValueError, match="a TrainConfig and settings beside it"):
        vision.train(config_from_dict(settings), out="elsewhere")
