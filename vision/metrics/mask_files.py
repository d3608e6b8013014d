"""Folders of masks and panoptic PNGs for scoring files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vision.metrics.coco_files import read_json
from vision.metrics.panoptic import PanopticMap
from vision.structures import ClassMap

__all__ = ["paired_masks", "panoptic_cases", "read_index_mask"]

_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


def read_index_mask(path: str | Path) -> Tensor:
    """The values of a grey or palette image as class numbers (H, W) int32 (a palette's indices, not its colours)."""
    values = _pixels(path)
    if values.ndim != 2:
        raise ValueError(f"{path}: {values.shape[2]} channels; expected a grey or palette image of class numbers")
    return torch.from_numpy(values.astype(np.int32))


def _pixels(path: str | Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.array(image)
    except (UnidentifiedImageError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: not a readable image ({error})") from None


def paired_masks(truth: str | Path, predictions: str | Path) -> list[tuple[Path, Path]]:
    """(truth, prediction) files of equal name without suffix, by name; ValueError names what has no partner."""
    expected, given = _masks_in(truth), _masks_in(predictions)
    missing = sorted(expected.keys() - given.keys())
    if missing:
        raise ValueError(f"{predictions}: no mask for {', '.join(missing[:5])} ({len(missing)} missing)")
    return [(path, given[name]) for name, path in sorted(expected.items())]


def _masks_in(folder: str | Path) -> dict[str, Path]:
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: not a folder; expected one with masks ({', '.join(_SUFFIXES)})")
    files = {path.stem: path for path in sorted(Path(folder).iterdir()) if path.suffix.lower() in _SUFFIXES}
    if not files:
        raise ValueError(f"{folder}: no masks in it ({', '.join(_SUFFIXES)})")
    return files


def panoptic_cases(
    truth: str | Path, predictions: str | Path
) -> tuple[ClassMap, Iterator[tuple[PanopticMap, PanopticMap]]]:
    """Classes, and one (predicted, truth) pair for each image of the truth, read when asked for.

    Each path is a COCO panoptic JSON file; its PNGs lie in the folder of the same name without suffix.
    """
    expected, given = read_json(truth), read_json(predictions)
    needs = ((truth, expected, ("annotations", "categories")), (predictions, given, ("annotations",)))
    for path, content, keys in needs:
        if not isinstance(content, dict) or any(key not in content for key in keys):
            raise ValueError(f"{path}: not COCO panoptic JSON; expected the keys {', '.join(keys)}")
    categories = sorted(expected["categories"], key=lambda category: category["id"])
    classes = ClassMap(
        tuple(c["name"] for c in categories),
        tuple(c["id"] for c in categories),
        tuple(bool(c.get("isthing", 1)) for c in categories),
    )
    by_image = {one["image_id"]: one for one in given["annotations"]}
    missing = [str(one["image_id"]) for one in expected["annotations"] if one["image_id"] not in by_image]
    if missing:
        raise ValueError(f"{predictions}: no annotation for image {', '.join(missing[:5])} ({len(missing)} missing)")

    def cases() -> Iterator[tuple[PanopticMap, PanopticMap]]:
        for fact in expected["annotations"]:
            guess = by_image[fact["image_id"]]
            yield _map(Path(predictions), guess, classes), _map(Path(truth), fact, classes)

    return classes, cases()


def _map(path: Path, annotation: dict, classes: ClassMap) -> PanopticMap:
    file = path.with_suffix("") / annotation["file_name"]
    pixels = _pixels(file)
    if pixels.ndim != 3:
        raise ValueError(f"{file}: a grey image; expected RGB with segment id = R + 256 G + 65536 B")
    red, green, blue = (pixels[..., i].astype(np.int32) for i in range(3))
    ids = torch.from_numpy(red + 256 * green + 65536 * blue)
    rows = annotation["segments_info"]
    unknown = sorted({row["category_id"] for row in rows} - set(classes.ids))
    if unknown:
        raise ValueError(
            f"{path}: category id {unknown[0]} in image {annotation['image_id']} is not one of the truth's"
        )
    return PanopticMap(
        ids,
        torch.tensor([row["id"] for row in rows], dtype=torch.int64),
        torch.tensor([classes.label_of(row["category_id"]) for row in rows], dtype=torch.int64),
        torch.tensor([bool(row.get("iscrowd", 0)) for row in rows], dtype=torch.bool),
    )
