"""A run that was stopped, politely or not, goes on as if nothing had happened."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import vision
from vision.engine import files
from vision.engine import trainer as trainer_module
from vision.engine.checkpoint import read_state, read_weights

AUGMENTED = {"augment": {"flip_horizontal": 0.5, "scale": [0.5, 1.5], "hue": 0.1, "mosaic": 0.5}, "plain_share": 0.4}


def assert_same_state(first, second):
    """Weights, average, optimiser, schedule, position: bit for bit; the seconds that it took may differ."""
    first, second = (read_state(folder / "last.pt") for folder in (first, second))
    first.pop("spending"), second.pop("spending")
    assert_equal(first, second, "state")


def assert_equal(first, second, where):
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second)):
            assert_equal(*pair, f"{where}[{index}]")
    else:
        assert first == second, f"{where}: {first} and {second}"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_two_and_two_epochs_are_four(tiny, optimizer):
    settings = {"optim": {"name": optimizer}, "validate_every": 2, **AUGMENTED}
    whole = vision.train(**tiny("whole", **settings))
    parts = vision.train(**tiny("parts", **settings, stop_after_epochs=2))
    assert (parts.epochs, parts.finished) == (2, False)
    parts = vision.train(out=str(parts.folder), resume=True)  # to the end: the stop was of the first call
    assert (parts.epochs, parts.finished) == (4, True)
    assert_same_state(whole.folder, parts.folder)
    (tensors, header), (other_tensors, other_header) = read_weights(whole.weights), read_weights(parts.weights)
    assert_equal(tensors, other_tensors, "best.safetensors")
    assert header == other_header
    steps = [json.loads(line)["step"] for line in (parts.folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8]


def stop_at(monkeypatch, step):
    """Ctrl-C while optimiser step `step` is computed."""
    original = trainer_module.TrainStep.forward
    calls = [0]

    def forward(self, images, targets):
        calls[0] += 1
        if calls[0] == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, images, targets)

    monkeypatch.setattr(trainer_module.TrainStep, "forward", forward)


@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_within_an_epoch_loses_nothing(tiny, monkeypatch, workers):
    settings = {"epochs": 2, "batch_size": 2, "val_split": None, "workers": workers, **AUGMENTED}  # 4 steps an epoch
    whole = vision.train(**tiny("whole", **settings))
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            vision.train(**tiny("parts", **settings))
    folder = whole.folder.parent / "parts"
    assert read_state(folder / "last.pt")["progress"]["step"] == 6  # the step in progress was finished
    parts = vision.train(out=str(folder), resume=True)
    assert_same_state(whole.folder, parts.folder)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_crashes_within_an_epoch_goes_on_from_there(tiny, monkeypatch, workers):
    settings = {"epochs": 2, "batch_size": 2, "val_split": None, "workers": workers, **AUGMENTED}  # 4 steps an epoch
    whole = vision.train(**tiny("whole", **settings))
    settings |= {"save_seconds": 1000.0, "save_within": 1e-9}
    original, calls = trainer_module.TrainStep.forward, itertools.count(1)

    def forward(self, images, targets):
        if next(calls) == 7:
            raise RuntimeError("out of memory")
        return original(self, images, targets)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.TrainStep, "forward", forward)
        with pytest.raises(RuntimeError, match="out of memory"):
            vision.train(**tiny("parts", **settings))
    folder = whole.folder.parent / "parts"
    assert read_state(folder / "last.pt")["progress"]["step"] == 6
    parts = vision.train(out=str(folder), resume=True)
    assert_same_state(whole.folder, parts.folder)


def test_a_finished_run_stays_finished(tiny):
    first = vision.train(**tiny(epochs=1))
    before = read_state(first.folder / "last.pt")["model"]
    again = vision.train(out=str(first.folder), resume=True)
    assert again.steps == first.steps
    assert_equal(before, read_state(again.folder / "last.pt")["model"], "model")


def test_a_run_goes_on_without_the_weights_that_it_began_with(tiny):
    start = vision.train(**tiny("start", epochs=1))
    weights = start.folder.parent / "start.safetensors"
    shutil.copy(start.weights, weights)
    paused = vision.train(**tiny("run", epochs=2, weights=str(weights), stop_after_epochs=1))
    weights.unlink()
    assert vision.train(out=str(paused.folder), resume=True).epochs == 2


def test_the_same_command_line_with_resume_goes_on(tiny):
    settings = {"model": "unet", "recipe": "shapes_segmentation", **tiny("run", stop_after_epochs=1)}
    vision.train(**settings)
    assert vision.train(**settings, resume=True).epochs == 2
    with pytest.raises(ValueError, match="resume: "):
        vision.train(out=settings["out"], resume=True, recipe="bccd")


def test_what_would_make_it_another_run_is_refused(tiny, tmp_path):
    folder = vision.train(**tiny(epochs=2, stop_after_epochs=1, val_split=None)).folder
    for given, named in (({"model": "yolo_n"}, "model"), ({"optim": {"lr": 9.0}}, "optim"), ({"epochs": 9}, "epochs")):
        with pytest.raises(ValueError, match=rf"resume: {named} = .*was started with"):
            vision.train(out=str(folder), resume=True, **given)
    with pytest.raises(ValueError, match=r"config\.yaml is not there"):
        vision.train(out=str(tmp_path / "absent"), resume=True)
    (folder / "last.pt").unlink()
    with pytest.raises(ValueError, match=r"last\.pt is not there"):  # there are weights of it: something was lost
        vision.train(out=str(folder), resume=True)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tiny):
    whole = vision.train(**tiny("whole", epochs=2, val_split=None))
    folder = whole.folder.parent / "killed"
    folder.mkdir()
    config = (whole.folder / "config.yaml").read_text().replace(str(whole.folder), str(folder))
    (folder / "config.yaml").write_text(config)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 9.0}\n')
    resumed = vision.train(out=str(folder), resume=True)
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4]
    expected, found = (read_state(run.folder / "last.pt")["model"] for run in (whole, resumed))
    assert_equal(expected, found, "model")


def test_a_full_disk_leaves_the_previous_checkpoint(tiny, monkeypatch):
    whole = vision.train(**tiny("whole", val_split=None))
    saved, full = [0], OSError(28, "No space left on device")
    original = files._sync

    def sync(file):
        saved[0] += "last.pt" in file.name
        if saved[0] > 2:
            raise full
        original(file)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_sync", sync)
        with pytest.raises(OSError, match=r"last\.pt.*No space left on device.*previous file is untouched"):
            vision.train(**tiny("parts", val_split=None))
    folder = whole.folder.parent / "parts"
    assert read_state(folder / "last.pt")["progress"]["epoch"] == 2
    assert not list(folder.glob(".*"))
    assert_same_state(whole.folder, vision.train(out=str(folder), resume=True).folder)


CHILD = """
import sys, vision
vision.train(**eval(sys.argv[1]))
"""


def start(settings):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, repr(settings)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def killed_run(settings, folder, kills, draw):
    """Starts the run, kills it at random moments after its first checkpoint, resumes it, and lets it end."""
    child = start(settings)
    for _ in range(kills):
        before = (folder / "last.pt").stat().st_mtime_ns if (folder / "last.pt").exists() else None
        while child.poll() is None:
            now = (folder / "last.pt").stat().st_mtime_ns if (folder / "last.pt").exists() else None
            if now != before:
                break
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.3))
        child.kill()
        child.wait()
        read_state(folder / "last.pt")  # whole, whatever the moment
        child = start({"out": settings["out"], "resume": True})
    assert child.wait(timeout=300) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_sigkill_at_random_moments(tiny, seed):
    settings = {"epochs": 60, "val_split": None, **AUGMENTED}
    whole = vision.train(**tiny("whole", **settings))
    folder = whole.folder.parent / "parts"
    killed_run(tiny("parts", **settings), folder, 5, random.Random(seed))
    assert_same_state(whole.folder, folder)


def test_a_kill_while_writing_leaves_a_whole_file(tmp_path):
    # the child writes 4 MB of one value over and over; each of 8 kills falls somewhere into it. Torch is not used in
    # it: threads do not survive a fork
    path, draw = tmp_path / "last.pt", random.Random(0)
    read_end, write_end = os.pipe()
    for _ in range(8):
        child = os.fork()
        if child == 0:
            for number in itertools.cycle(range(256)):
                files.write_file(path, lambda file, number=number: file.write(bytes([number]) * (4 << 20)))
                os.write(write_end, b".")
        os.read(read_end, 1)  # one at least is written
        time.sleep(draw.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        content = path.read_bytes()
        assert content == content[:1] * (4 << 20)


COMBINATIONS = [
    {"optim": {"name": "sgd", "nesterov": False}, "schedule": {"name": "step"}, "swa": {"start": 0.25, "every": 1}},
    {"optim": {"name": "sgd", "momentum": 0.0}, "schedule": {"name": "constant"}, "ema": {"decay": 0}},
    {"optim": {"name": "rmsprop"}, "schedule": {"name": "multi_step"}, "swa": {"start": 0.5}},
    {"optim": {"name": "adagrad"}, "schedule": {"name": "exponential"}, "batch_growth": {"at": [0.5]}},
    {"optim": {"name": "adadelta"}, "schedule": {"name": "polynomial"}, "accumulate": 2},
    {"optim": {"name": "adam"}, "schedule": {"name": "cyclic", "cyclic_mode": "triangular2", "cycles": 2}},
    {"optim": {"name": "adam"}, "schedule": {"name": "cyclic", "cyclic_mode": "exp_range", "cycles": 2, "gamma": 0.9}},
    {"optim": {"name": "adamw"}, "schedule": {"name": "one_cycle", "cycle_momentum": [0.95, 0.85]}},
    {
        "optim": {"name": "adamw", "layer_decay": 0.7, "backbone_multiplier": 0.5},
        "schedule": {"name": "plateau", "patience": 0, "gamma": 0.5},
        "validate_every": 1,
    },
    {"optim": {"name": "adamw"}, "schedule": {"name": "cosine", "cycles": 2}, "regularize": {"weight_noise": 0.1}},
]


@pytest.mark.parametrize(
    "settings", COMBINATIONS, ids=lambda settings: f"{settings['optim']['name']}-{settings['schedule']['name']}"
)
def test_every_optimiser_and_schedule_resumes_to_the_bit(tiny, settings):
    settings = {"augment": {"flip_horizontal": 0.5}, "data": "shapes:count=4,size=32", "batch_size": 2, **settings}
    if "validate_every" not in settings:
        settings["val_split"] = None
    whole = vision.train(**tiny("whole", **settings))
    parts = vision.train(**tiny("parts", **settings, stop_after_epochs=2))
    parts = vision.train(out=str(parts.folder), resume=True)
    assert_same_state(whole.folder, parts.folder)
    tensors = [value for value in read_state(whole.folder / "last.pt")["model"].values() if value.is_floating_point()]
    assert all(value.isfinite().all() for value in tensors)
