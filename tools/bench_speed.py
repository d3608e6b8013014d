"""Training images and single predictions per CPU second, ours beside torchvision's SSDlite320 in the same run.

    python tools/bench_speed.py --data FOLDER [--image-size 320] [--steps 12]

FOLDER: a detection data set, as bccd in VOC layout; without it the generated shapes. Training: decoding, augmentation,
forward, loss, backward, optimiser, moving average, through `vision train`'s own loop. torchvision's model is trained on
the same batches, already loaded (its loader costs nothing here). Prediction: a 640x480 picture, decoding and NMS
included. User-CPU seconds, all threads added up; the two sides take turns, the median pair is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import vision
from vision.data import open_dataset
from vision.data.augment_config import default_augmentation
from vision.data.loader import build_loader
from vision.data.resize import Preprocess
from vision.data.transforms import build_augmentation
from vision.engine.canvas import fitting_preprocess
from vision.engine.device import autocast, choose_device, choose_precision
from vision.engine.ema import MovingAverage
from vision.engine.inference import Inference
from vision.models import TrainStep


def cpu_seconds(work: Callable[[], None]) -> float:
    begun = os.times()
    work()
    ended = os.times()
    return ended.user - begun.user


def training_pair(data: str, size: int, batch_size: int, steps: int) -> tuple[list[float], list[float]]:
    """Images per CPU second of YOLO-n with its loader and of torchvision's SSDlite320, by turns."""
    import torchvision

    dataset = open_dataset(data, "train", task="detection")
    device = choose_device("cpu")
    precision = choose_precision("auto", device)
    preprocess = fitting_preprocess(size, "letterbox", dataset)
    augmentation = build_augmentation(default_augmentation("detection"), preprocess, "detection")
    loader = build_loader(
        dataset, preprocess=preprocess, batch_size=batch_size, augmentation=augmentation, cache_bytes=1 << 30
    )
    model = vision.build_model("yolo_n", dataset.classes).to(memory_format=torch.channels_last).train()
    step, average = TrainStep(model), MovingAverage(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    batches = endless(loader)

    def ours() -> None:
        batch = next(batches)
        with autocast(device, precision):
            losses = step(batch.images, batch.targets)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(model)

    peer = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=len(dataset.classes) + 1
    ).train()
    peer_optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-4)
    loaded = next(batches)
    images = [image.float() / 255 for image in loaded.images]
    targets = [
        {"boxes": boxes[valid], "labels": labels[valid] + 1}
        for boxes, labels, valid in zip(loaded.targets.boxes, loaded.targets.labels, loaded.targets.valid)
    ]

    def theirs() -> None:
        sum(peer(images, targets).values()).backward()
        peer_optimizer.step()
        peer_optimizer.zero_grad(set_to_none=True)

    for work in (ours, theirs, ours, theirs):  # set-up costs and the decoding of the first pass
        work()
    rates = ([], [])
    for _ in range(steps):
        for rate, work in zip(rates, (ours, theirs)):
            rate.append(batch_size / cpu_seconds(work))
    return rates


def endless(loader: object):
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def prediction_pair(picture: np.ndarray, size: int, runs: int) -> tuple[list[float], list[float]]:
    """CPU milliseconds a picture of YOLO-n, and of torchvision's SSDlite320."""
    import torchvision

    model = vision.build_model("yolo_n", 80)
    model.preprocess = Preprocess(size)
    inference = Inference(model, score_threshold=0.001)
    peer = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    image = torch.from_numpy(picture).permute(2, 0, 1).float() / 255

    def theirs() -> None:
        with torch.inference_mode():
            peer([image])

    times = ([], [])
    for number in range(runs + 3):
        for row, work in zip(times, (lambda: inference([picture]), theirs)):
            # os.times counts in hundredths of a second: ten predictions a reading
            seconds = cpu_seconds(lambda work=work: [work() for _ in range(10)]) / 10
            if number >= 3:
                row.append(1000 * seconds)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="shapes:size=320,count=200", help="detection data set")
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    precision = choose_precision("auto", torch.device("cpu"))
    print(f"{Path(arguments.data).name}, {arguments.image_size} px, {arguments.threads} threads, {precision}")
    begun = time.monotonic()
    ours, theirs = training_pair(arguments.data, arguments.image_size, arguments.batch_size, arguments.steps)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs))
    print(f"training   YOLO-n with loading {statistics.median(ours):6.1f} images per CPU second")
    print(f"           SSDlite320, no loading {statistics.median(theirs):3.1f} (torchvision); ratio {ratio:.2f}")
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    ours, theirs = prediction_pair(picture, 640, 8)
    ratio = statistics.median(b / a for a, b in zip(ours, theirs))
    print(f"prediction YOLO-n at 640 px {statistics.median(ours):6.1f} CPU ms a 640x480 picture")
    print(f"           SSDlite320 at 320 px {statistics.median(theirs):6.1f} CPU ms (torchvision); ratio {ratio:.2f}")
    print(f"({time.monotonic() - begun:.0f} s)")


if __name__ == "__main__":
    main()
