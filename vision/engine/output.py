"""Results on disk: a folder that appears only when it is whole, and the files that go into it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from vision.engine.files import write_text
from vision.structures import ClassMap, Detections

__all__ = [
    "DistinctNames", "JsonList", "coco_results", "output_folder", "write_class_map", "write_image", "write_json",
    "write_layers",
]  # fmt: skip


@contextlib.contextmanager
def output_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write into that gets its name `path` at the end; after an error nothing of it is left.

    Ctrl-C keeps what was written so far. ValueError when `path` exists: nothing is ever overwritten.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"output folder {path} exists and is kept as it is; give another name")
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
    except KeyboardInterrupt:
        partial.rename(path)
        raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(path)


class DistinctNames:
    """Names of files made from sources: what would collide without its suffix gets a number, as masks are all PNGs."""

    def __init__(self) -> None:
        self._taken: set[Path] = set()

    def __call__(self, path: str | Path) -> Path:
        path = Path(path)
        name, number = path, 2
        while name.with_suffix("") in self._taken:
            name, number = path.with_name(f"{path.stem}_{number}{path.suffix}"), number + 1
        self._taken.add(name.with_suffix(""))
        return name


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON (NaN is refused) to `path`, whole or not at all."""
    write_text(Path(path), json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes RGB uint8 (H, W, 3), or one channel (H, W) of uint8 or uint16, in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    if not cv2.imwrite(str(path), pixels):
        raise OSError(f"could not write {path}")


def write_class_map(path: Path, labels: Tensor, classes: ClassMap) -> None:
    """Writes labels (H, W) as an index PNG of 8 bits, where a pixel of no class is 255; with more than 255 classes of
    16 bits, where it is 65535."""
    numbers = labels.cpu().numpy()
    write_image(path, numbers.astype(np.uint8 if len(classes) <= 255 else np.uint16))


def write_layers(folder: Path, layers: Tensor, classes: ClassMap) -> None:
    """Writes layers (C, H, W) bool as `folder`/CLASS.png, 255 where the class is and 0 elsewhere; in file names what
    is no letter, digit, dot, dash or space becomes an underscore."""
    distinct = DistinctNames()
    for name, layer in zip(classes.names, layers.cpu().numpy()):
        safe = "".join(letter if letter.isalnum() or letter in "-. " else "_" for letter in name)
        write_image(folder / distinct(f"{safe}.png"), layer.astype(np.uint8) * 255)


class JsonList:
    """A JSON list written one item a line as the items come, so that it need not fit in memory."""

    def __init__(self, path: str | Path):
        self._file = Path(path).open("w")  # noqa: SIM115 (closed by __exit__)
        self._count = 0

    def extend(self, items: list) -> None:
        for item in items:
            self._file.write(("[\n" if self._count == 0 else ",\n") + json.dumps(item, allow_nan=False))
            self._count += 1

    def __enter__(self) -> JsonList:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.write("[]\n" if self._count == 0 else "\n]\n")
        self._file.close()


def coco_results(detections: Detections, classes: ClassMap, image_id: int | str) -> list[dict]:
    """The detections of one image in COCO's results format: category ids of the data set, bbox as x, y, width, height.

    Numbers are written in full, so that a metric computed from the file equals the one computed from the tensors.
    """
    boxes = detections.boxes.double().cpu().numpy().copy()
    boxes[:, 2:] -= boxes[:, :2]
    scores, labels = detections.scores.double().cpu().tolist(), detections.labels.cpu().tolist()
    results = [
        {"image_id": image_id, "category_id": classes.ids[label], "bbox": box, "score": score}
        for box, score, label in zip(boxes.tolist(), scores, labels)
    ]
    if detections.masks is not None:
        for result, code in zip(results, _run_lengths(detections.masks)):
            result["segmentation"] = code
    return results


def _run_lengths(masks: Tensor) -> list[dict]:
    from pycocotools import mask as coco_mask

    stacked = np.asfortranarray(masks.cpu().numpy().astype(np.uint8).transpose(1, 2, 0))
    return [{"size": c["size"], "counts": c["counts"].decode()} for c in coco_mask.encode(stacked)]
