"""Two processes train as one: same data, equal weights, the same metrics.

`--multi_gpu` starts them through torch.distributed; where there is no GPU they are CPU processes. (accelerate's `--cpu`
starts several only under MPI, and otherwise a single one.)
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vision
from vision.data import open_dataset
from vision.engine.checkpoint import load
from vision.engine.evaluate import evaluate

ROOT = Path(__file__).parents[2]

# what each process does: train, then write its weights, the images that it saw and its view of the metrics
CHILD = """
import json, os, sys, torch, vision
from vision.engine import trainer
seen, forward = [], trainer.Trainer._optimizer_step
def step(self, batches):
    seen.append([str(i) for batch in batches for i in batch.image_ids])
    if {empty} and self.accelerator.process_index == 1:
        for batch in batches:
            batch.targets.valid.zero_(); batch.targets.labels.fill_(-1)
    forward(self, batches)
    trainer.LAST = self
trainer.Trainer._optimizer_step = step
# clocks differ: one process finds every epoch the time to save, the other never
settings = {{**json.loads(sys.argv[1]), "save_seconds": [0, 1e9][int(os.environ["RANK"])]}}
result = vision.train(**settings)
rank = trainer.LAST.accelerator.process_index
averaged = trainer.LAST.averaged.state_dict()
torch.save({{"model": trainer.LAST.model.state_dict(), "ema": averaged, "seen": seen, "value": result.value}},
           sys.argv[2] + str(rank))
"""


def launch(settings, folder, empty=False):
    """Runs CHILD in two processes and returns what each of them wrote."""
    script = folder / "child.py"
    script.write_text(CHILD.format(empty=empty))
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", str(20000 + os.getpid() % 20000),
        str(script), json.dumps(settings), str(folder / "rank"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}", weights_only=True) for rank in range(2)]


@pytest.mark.slow
def test_two_processes_train_as_one(tiny, tmp_path):
    settings = tiny("two", epochs=3, batch_size=2, validate_every=1)
    first, second = launch(settings, tmp_path)
    for kind in ("model", "ema"):
        for name, value in first[kind].items():
            assert torch.equal(value, second[kind][name]), f"{kind} {name} differs between the processes"
    assert first["value"] == second["value"]
    # one process with batches of 4 sees the same images in the same steps
    alone = vision.train(**tiny("one", epochs=3, batch_size=4))
    together = [sorted(a + b) for a, b in zip(first["seen"], second["seen"])]
    assert len(together) == alone.steps == 6
    assert all(len(set(step)) == 4 for step in together)
    # evaluation over two processes equals evaluation over one
    best = load(tmp_path / "two" / "best.safetensors")
    dataset = open_dataset(settings["data"], "val", task="semantic")
    again = evaluate(best, dataset, device="cpu", precision="fp32", progress=False)
    assert again.headline[1] == pytest.approx(first["value"], abs=1e-12)


@pytest.mark.slow
def test_a_process_without_objects_does_not_hang(tiny, tmp_path):
    settings = tiny(
        "two", model="yolo_n", model_options={}, data="shapes:count=4,size=64", image_size=64, epochs=2, batch_size=1
    )
    first, second = launch(settings, tmp_path, empty=True)
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name


@pytest.mark.slow
def test_tools_train_under_accelerate_launch(tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", str(21000 + os.getpid() % 20000),
        "tools/train.py", "--model", "unet", "--model_options.width", "4", "--model_options.depth", "2",
        "--data", "shapes:count=8,size=32", "--image-size", "32", "--batch-size", "2", "--epochs", "2",
        "--out", str(out),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("images per CPU second") == 1  # one process speaks
    assert "2 process(es)" in done.stderr
    assert (out / "best.safetensors").is_file()


def test_a_launcher_that_starts_a_single_process_is_noticed(tiny, monkeypatch, caplog):
    # what `accelerate launch --cpu --num_processes 2` leaves in the environment without MPI
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with caplog.at_level("WARNING", logger="vision"):
        vision.train(**tiny("alone", epochs=1, val_split=None))
    assert "started a single one" in caplog.text
    caplog.clear()
    monkeypatch.delenv("MASTER_ADDR")
    with caplog.at_level("WARNING", logger="vision"):
        vision.train(**tiny("plain", epochs=1, val_split=None))
    assert "single" not in caplog.text
