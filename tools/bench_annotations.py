"""Memory of a loader over the annotations of 100,000 images: does it stay flat over an epoch with 2 workers?

Writes a synthetic COCO file (7 objects an image, polygons of 12 points), opens it and reads every target in forked
workers of a DataLoader. Each worker reports its private memory (USS: pages that it shares with nobody) and its
proportional share (PSS). Lists of dicts, the usual way to hold annotations, are measured beside it in the same run.

    python tools/bench_annotations.py [--images 100000] [--workers 2]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from torch.utils.data import DataLoader, Dataset

from vision.data.card import Card
from vision.data.source import read_split

MEGABYTE = 1 << 20
OBJECTS, POINTS = 7, 12


def write_annotations(path: Path, images: int) -> None:
    """A COCO instances file of `images` images of 640x480."""
    draw = random.Random(0)
    content: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for image in range(images):
        content["images"].append({"id": image, "file_name": f"{image:012d}.jpg", "width": 640, "height": 480})
        for _ in range(OBJECTS):
            x, y = draw.uniform(0, 500), draw.uniform(0, 400)
            ring = [round(v + draw.uniform(0, 60), 2) for _ in range(POINTS) for v in (x, y)]
            content["annotations"].append(
                {"id": len(content["annotations"]) + 1, "image_id": image, "category_id": 1, "iscrowd": 0,
                 "bbox": [round(x, 2), round(y, 2), 60, 60], "area": 1800.0, "segmentation": [ring]}
            )  # fmt: skip
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))


class PackedTargets(Dataset):
    """Targets of our reader; an item is the memory of the worker after it read one."""

    def __init__(self, path: Path):
        root = path.parent.parent
        card = Card("bench", "coco", root, {"train": {"annotations": path, "images": root}})
        self.dataset = read_split(card, "train")
        self.dataset.problems.clear()  # the images do not exist

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> np.ndarray:
        target = self.dataset.target(index)
        row = self.dataset.annotations.rows(index).start
        self.dataset.annotations.segment(row)
        return measure(index, len(target))


class ListTargets(Dataset):
    """The same from a list of lists of dicts."""

    def __init__(self, path: Path):
        content = json.loads(path.read_text())
        self.items: list[list[dict[str, Any]]] = [[] for _ in content["images"]]
        for annotation in content["annotations"]:
            self.items[annotation["image_id"]].append(annotation)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> np.ndarray:
        boxes = np.array([annotation["bbox"] for annotation in self.items[index]], np.float32)
        rings = [np.array(annotation["segmentation"][0]) for annotation in self.items[index]]
        return measure(index, min(len(boxes), len(rings)))


def measure(index: int, objects: int) -> np.ndarray:
    """(3,) float64: process id, USS and PSS in MiB every 500th item, else zeros beside the process id."""
    if index % 500:
        return np.array([os.getpid(), 0, 0], np.float64)
    memory = psutil.Process().memory_full_info()
    return np.array([os.getpid(), memory.uss / MEGABYTE, memory.pss / MEGABYTE])


def run(name: str, dataset: Dataset, workers: int) -> tuple[float, float]:
    """Reads an epoch; prints and returns USS per worker in MiB, in the first and the last tenth of the epoch."""
    gc.collect()
    parent = psutil.Process().memory_info().rss / MEGABYTE
    loader = DataLoader(
        dataset, batch_size=64, num_workers=workers, multiprocessing_context="fork", collate_fn=np.stack
    )
    begin = time.perf_counter()
    rows = np.concatenate(list(loader))
    seconds = time.perf_counter() - begin
    uss: list[np.ndarray] = []
    pss = 0.0
    for worker in np.unique(rows[:, 0]):
        measured = rows[(rows[:, 0] == worker) & (rows[:, 1] > 0)]
        uss.append(measured[:, 1])
        pss += measured[-1, 2]
    tenth = max(1, min(map(len, uss)) // 10)
    first = float(np.mean([series[:tenth].mean() for series in uss]))
    last = float(np.mean([series[-tenth:].mean() for series in uss]))
    print(
        f"{name:16s} parent RSS {parent:7.0f} MiB · USS a worker: first tenth {first:7.1f}, last tenth {last:7.1f} MiB "
        f"({last - first:+.1f}) · PSS of the workers {pss:6.0f} MiB · {seconds:.1f} s"
    )
    return first, last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations" / "instances_train.json"
        write_annotations(path, arguments.images)
        megabytes = path.stat().st_size / MEGABYTE
        print(f"{arguments.images} images, {arguments.images * OBJECTS} objects, {megabytes:.0f} MiB of JSON")
        begin = time.process_time()
        packed = PackedTargets(path)
        print(
            f"opened in {time.process_time() - begin:.1f} CPU s; packed arrays "
            f"{packed.dataset.annotations.bytes / MEGABYTE:.0f} MiB"
        )
        run("packed arrays", packed, arguments.workers)
        del packed
        run("lists of dicts", ListTargets(path), arguments.workers)


if __name__ == "__main__":
    main()
