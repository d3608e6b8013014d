"""Training images a CPU second, decode to ready tensor: ours beside albumentations, torchvision v2 and plain OpenCV.

    python tools/bench_data.py                       generated 640x480 JPEGs, 640 px
    python tools/bench_data.py --data FOLDER         the JPEGs under FOLDER
    python tools/bench_data.py --size 320

Everyone does the detection recipe without mosaic: decode, fit to the size, scale by 0.5 to 1.5 and crop or pad at
random, mirror half of the images, jitter hue, saturation, brightness and contrast, carry 12 boxes along, join 16 images
to a uint8 tensor (16, 3, size, size). One thread each, processor time, in turns; the best turn counts, which is what
the machine gives when nothing else runs. The lines below the ratios are ours with mosaic and with a cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from vision.data.loader import build_loader
from vision.data.resize import Preprocess
from vision.data.transforms import build_augmentation, default_augmentation
from vision.structures import ClassMap, Sample, Target

BATCH, BOXES = 16, 12
PAD = (114, 114, 114)


class Pictures:
    """JPEGs with random boxes, behind the interface of our data sets."""

    classes = ClassMap(("object",))

    def __init__(self, paths: list[Path]):
        self.paths, self.targets = paths, []
        for i, path in enumerate(paths):
            height, width = cv2.imread(str(path)).shape[:2]
            corners = np.random.default_rng(i).random((BOXES, 2, 2)) * (width, height)
            boxes = np.concatenate([corners.min(1), corners.max(1) + 4], 1).clip(0, [width, height] * 2)
            self.targets.append(Target(boxes, image_id=path.stem, size=(height, width)))

    def __len__(self) -> int:
        return len(self.paths)

    def size(self, i: int) -> tuple[int, int]:
        return self.targets[i].size

    def image_path(self, i: int) -> Path:
        return self.paths[i]

    def image(self, i: int) -> np.ndarray:
        return cv2.cvtColor(cv2.imread(str(self.paths[i])), cv2.COLOR_BGR2RGB)

    def target(self, i: int, masks: bool = False, semantic: bool = False) -> Target:
        return self.targets[i]

    def sample(self, i: int, masks: bool = False, semantic: bool = False) -> Sample:
        return Sample(self.image(i), self.targets[i])


def generate(folder: Path, count: int) -> list[Path]:
    """`count` JPEGs of 640x480 with gradients, shapes and grain, about as large as photographs."""
    paths = []
    for i in range(count):
        random = np.random.default_rng(i)
        coarse = random.integers(0, 256, (6, 8, 3), np.uint8)
        image = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
        for _ in range(30):
            centre, axes = random.integers(0, 640, 2).tolist(), random.integers(5, 80, 2).tolist()
            cv2.ellipse(image, centre, axes, int(random.integers(180)), 0, 360, random.integers(0, 256, 3).tolist(), -1)
        grain = random.normal(0, 6, image.shape)
        paths.append(folder / f"{i}.jpg")
        cv2.imwrite(str(paths[-1]), (image + grain).clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths


def ours(data: Pictures, size: int, mosaic: float = 0.0, cache: int = 0) -> Callable[[], int]:
    preprocess = Preprocess((size, size))
    augmentation = build_augmentation(dataclasses.replace(default_augmentation("detection"), mosaic=mosaic), preprocess)
    loader = build_loader(data, preprocess=preprocess, batch_size=BATCH, augmentation=augmentation, cache_bytes=cache)
    return lambda: sum(len(batch.images) for batch in loader)


def in_batches(data: Pictures, load: Callable[[int], torch.Tensor]) -> Callable[[], int]:
    def run() -> int:
        count = len(data) // BATCH * BATCH
        for first in range(0, count, BATCH):
            torch.stack([load(i) for i in range(first, first + BATCH)])
        return count

    return run


def with_albumentations(data: Pictures, size: int) -> Callable[[], int]:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    pipeline = A.Compose(
        [
            A.LongestMaxSize(size),
            A.RandomScale((-0.5, 0.5), p=1),
            A.PadIfNeeded(size, size, border_mode=cv2.BORDER_CONSTANT, fill=PAD),
            A.RandomCrop(size, size),
            A.HorizontalFlip(p=0.5),
            A.HueSaturationValue(3, 50, 0, p=1),
            A.RandomBrightnessContrast(0.3, 0.2, p=1),
            ToTensorV2(),
        ],
        bbox_params=A.BboxParams("pascal_voc", label_fields=["labels"], min_visibility=0.15, clip=True),
    )

    def load(i: int) -> torch.Tensor:
        target = data.target(i)
        return pipeline(image=data.image(i), bboxes=target.boxes, labels=target.labels)["image"]

    return in_batches(data, load)


def with_torchvision(data: Pictures, size: int) -> Callable[[], int]:
    from torchvision import tv_tensors
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    pipeline = v2.Compose(
        [
            v2.Resize(None, max_size=size),
            v2.ScaleJitter((size, size), (0.5, 1.5)),
            v2.RandomCrop(size, pad_if_needed=True, fill=114),
            v2.RandomHorizontalFlip(0.5),
            v2.ColorJitter(0.3, 0.2, 0.5, 0.015),
            v2.SanitizeBoundingBoxes(),
        ]
    )

    def load(i: int) -> torch.Tensor:
        target = data.target(i)
        image = tv_tensors.Image(decode_image(str(data.paths[i]), ImageReadMode.RGB))
        boxes = tv_tensors.BoundingBoxes(target.boxes, format="XYXY", canvas_size=target.size)
        image, _ = pipeline(image, {"boxes": boxes, "labels": torch.from_numpy(target.labels)})
        return image.as_subclass(torch.Tensor)

    return in_batches(data, load)


def with_opencv(data: Pictures, size: int) -> Callable[[], int]:
    """What one writes by hand: resize, one affine warp, hue-saturation-value tables, mirror."""
    random, steps = np.random.default_rng(0), np.arange(256)

    def load(i: int) -> torch.Tensor:
        image, boxes = cv2.imread(str(data.paths[i])), data.target(i).boxes
        height, width = image.shape[:2]
        factor = size / max(height, width) * random.uniform(0.5, 1.5)
        shift = (size - factor * np.array([width, height])) * random.random(2)
        matrix = np.column_stack([np.eye(2) * factor, shift])
        image = cv2.warpAffine(image, matrix, (size, size), borderValue=PAD)
        boxes = (boxes * factor + np.tile(shift, 2)).clip(0, size)
        gains = 1 + random.uniform(-1, 1, 3) * (0.015, 0.5, 0.3)
        hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
        tables = [(steps * gains[0]) % 180, (steps * gains[1]).clip(0, 255), (steps * gains[2]).clip(0, 255)]
        parts = [cv2.LUT(part, table.astype(np.uint8)) for part, table in zip((hue, saturation, value), tables)]
        image = cv2.cvtColor(cv2.merge(parts), cv2.COLOR_HSV2RGB)
        if random.random() < 0.5:
            image = cv2.flip(image, 1)
            boxes[:, [0, 2]] = size - boxes[:, [2, 0]]
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

    return in_batches(data, load)


def measure(pipelines: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Images a CPU second of each pipeline: the best of `rounds` turns, taken one after the other."""
    best = dict.fromkeys(pipelines, 0.0)
    for run in pipelines.values():
        run()
    for _ in range(rounds):
        for name, run in pipelines.items():
            start = time.process_time()
            count = run()
            best[name] = max(best[name], count / (time.process_time() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with JPEGs (default: generated ones)")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            paths = generate(Path(folder), options.images)
        else:
            paths = sorted(options.data.rglob("*.jpg"))[: options.images]
        if len(paths) < BATCH:
            raise SystemExit(f"{options.data}: {len(paths)} .jpg files; at least {BATCH} are needed")
        data = Pictures(paths)
        speeds = measure(
            {
                "ours": ours(data, options.size),
                "albumentations": with_albumentations(data, options.size),
                "torchvision v2": with_torchvision(data, options.size),
                "OpenCV by hand": with_opencv(data, options.size),
                "ours, mosaic": ours(data, options.size, mosaic=1.0),
                "ours, cache": ours(data, options.size, cache=1 << 30),
                "ours, mosaic + cache": ours(data, options.size, mosaic=1.0, cache=1 << 30),
            },
            options.rounds,
        )
    print(f"{len(paths)} JPEGs ({options.data or 'generated, 640x480'}) to {options.size} px, one thread")
    print(f"{'pipeline':24}{'images / CPU s':>16}{'CPU ms / image':>16}{'ours is':>12}")
    for name, speed in speeds.items():
        ratio = "" if name.startswith("ours") else f"{speeds['ours'] / speed:.2f} x"
        print(f"{name:24}{speed:16.1f}{1000 / speed:16.2f}{ratio:>12}")


if __name__ == "__main__":
    main()
