"""`vision demo`: the whole main job on generated images, in a few minutes on two CPU cores."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vision.data import open_dataset
from vision.engine.checkpoint import load
from vision.engine.evaluate import evaluate
from vision.engine.predict import predict_to_folder
from vision.engine.train import train
from vision.media.video import VideoWriter

__all__ = ["DEMO_RUNS", "DemoRun", "run_demo"]

SIDE = 128
DATA = f"shapes:size={SIDE},seed=1"
VIDEO_FRAMES = 90


@dataclass(frozen=True)
class DemoRun:
    """One model of the demo: what is trained, how, and the metric that it should reach."""

    title: str
    metric: str
    expected: float
    settings: dict[str, Any]


DEMO_RUNS = {
    "detector": DemoRun(
        "YOLO-n, object detection",
        "AP50",
        0.85,
        {"recipe": "shapes_detection", "weights": "shapes_yolo_n", "epochs": 4, "optim": {"lr": 0.0007}},
    ),
    "segmenter": DemoRun(
        "U-Net, semantic segmentation",
        "mIoU",
        0.80,
        {"recipe": "shapes_segmentation", "weights": "shapes_unet", "epochs": 4, "optim": {"lr": 0.0005}},
    ),
}
# the shipped weights have seen such images before; a thousand new ones (another seed) are learnt on top
FINE_TUNING = {"data": f"{DATA},count=1000", "plain_share": 0.0}


def run_demo(out: str | Path = "demo", *, say: Callable[[str], None], progress: bool = True) -> dict[str, float]:
    """Trains, evaluates and predicts with each of `DEMO_RUNS` under the folder `out`; the metrics by name of run.

    `say` gets what a person should read. ValueError when `out` exists.
    """
    out, started = Path(out), time.monotonic()
    if out.exists():
        raise ValueError(f"{out} exists and is kept as it is; remove it or give another folder with --out")
    out.mkdir(parents=True)
    say(f"The data set is generated: {SIDE} pixels a side, discs, squares, triangles, crosses and rings that overlap.")
    images, clip = _held_out(out / "held_out")
    reached = {}
    for name, run in DEMO_RUNS.items():
        say(f"\n== {run.title} ==")
        say("It starts from weights that ship with the package, trained by the same recipe for longer than a demo may")
        say("take (47 and 68 minutes of one CPU core), and learns 1000 new images.")
        result = train(**FINE_TUNING, **run.settings, out=str(out / name / "run"), validate_every=10_000)
        model = load(result.weights)
        dataset = open_dataset(DATA, "test", task=model.task)
        evaluation = evaluate(model, dataset, out=out / name / "evaluation", progress=progress)
        say(evaluation.table())
        reached[name] = evaluation.to_dict()[run.metric]
        say(
            f"{run.metric} on {len(dataset)} images that it has not seen: {reached[name]:.3f} (expected {run.expected})"
        )
        predict_to_folder(model, [images, clip], out / name / "predictions", progress=progress)
    minutes = (time.monotonic() - started) / 60
    say(f"\nDone in {minutes:.1f} minutes. Look at the pictures and the video:")
    for name in DEMO_RUNS:
        say(f"  {out / name / 'predictions'}")
    return reached


def _held_out(folder: Path) -> tuple[Path, Path]:
    """A folder of six images and a clip, made from a part of the data set that no model was trained on."""
    dataset = open_dataset(DATA, "test")
    pictures = folder / "images"
    pictures.mkdir(parents=True)
    for index in range(6):
        picture = cv2.cvtColor(dataset.image(index), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(pictures / f"shapes_{index}.png"), picture)
    # the camera moves over four images that stand side by side
    scene = np.concatenate([dataset.image(index) for index in range(6, 10)], axis=1)
    clip = folder / "clip.mp4"
    with VideoWriter(clip, 15.0, (SIDE, SIDE)) as writer:
        for left in np.linspace(0, scene.shape[1] - SIDE, VIDEO_FRAMES).round().astype(int):
            writer.write(np.ascontiguousarray(scene[:, left : left + SIDE]))
    return pictures, clip
