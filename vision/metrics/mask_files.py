"""Folders of masks and panoptic PNGs for scoring files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from vision.metrics.coco_files import read_json
from vision.metrics.file_checks import check_categories, check_panoptic, kind_hint
from vision.metrics.panoptic import PanopticMap
from vision.ops.stored_masks import read_segment_ids
from vision.structures import ClassMap

__all__ = ["paired_masks", "panoptic_cases"]

_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


def paired_masks(truth: str | Path, predictions: str | Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """(truth, prediction) files of equal name without suffix, by name, and notes on predictions without a partner;
    ValueError names the truth that has none."""
    expected, given = _masks_in(truth), _masks_in(predictions)
    missing = sorted(expected.keys() - given.keys())
    if missing:
        raise ValueError(f"{predictions}: no mask for {', '.join(missing[:5])} ({len(missing)} missing)")
    pairs = [(path, given[name]) for name, path in sorted(expected.items())]
    return pairs, _left_out("masks", given.keys() - expected.keys(), predictions)


def _left_out(what: str, names: Iterable, predictions: str | Path) -> list[str]:
    names = sorted(map(str, names))
    some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return [f"{len(names)} {what} of {predictions} without a partner left out: {some}"] if names else []


def _masks_in(folder: str | Path) -> dict[str, Path]:
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: not a folder; expected one with masks ({', '.join(_SUFFIXES)})")
    files: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() not in _SUFFIXES:
            continue
        if path.stem in files:
            raise ValueError(f"{folder}: {files[path.stem].name} and {path.name}; expected one mask of each name")
        files[path.stem] = path
    if not files:
        raise ValueError(f"{folder}: no masks in it ({', '.join(_SUFFIXES)})")
    return files


def panoptic_cases(
    truth: str | Path, predictions: str | Path
) -> tuple[ClassMap, Iterator[tuple[PanopticMap, PanopticMap]], list[str]]:
    """Classes, one (predicted, truth) pair for each image of the truth, read when asked for, and notes on the
    predictions of other images.

    Each path is a COCO panoptic JSON file; its PNGs lie in the folder of the same name without suffix.
    """
    expected, given = read_json(truth), read_json(predictions)
    needs = ((truth, expected, ("annotations", "categories")), (predictions, given, ("annotations",)))
    for path, content, keys in needs:
        if not isinstance(content, dict) or any(key not in content for key in keys):
            raise ValueError(f"{path}: not COCO panoptic JSON; expected the keys {', '.join(keys)}")
        check_panoptic(path, content["annotations"])
    check_categories(truth, expected["categories"])
    categories = sorted(expected["categories"], key=lambda category: category["id"])
    classes = ClassMap(
        tuple(c["name"] for c in categories),
        tuple(c["id"] for c in categories),
        tuple(bool(c.get("isthing", 1)) for c in categories),
    )
    by_image = {one["image_id"]: one for one in given["annotations"]}
    images = [one["image_id"] for one in expected["annotations"]]
    missing = [repr(image) for image in images if image not in by_image]
    if missing:
        some = ", ".join(missing[:5]) + kind_hint(by_image, images)
        raise ValueError(f"{predictions}: no annotation for image {some} ({len(missing)} missing)")

    def cases() -> Iterator[tuple[PanopticMap, PanopticMap]]:
        for fact in expected["annotations"]:
            guess = by_image[fact["image_id"]]
            found, actual = _map(Path(predictions), guess, classes), _map(Path(truth), fact, classes)
            if found.ids.shape != actual.ids.shape:
                raise ValueError(
                    f"{predictions}: {guess['file_name']} of image {guess['image_id']!r} has {tuple(found.ids.shape)} "
                    f"pixels, but {tuple(actual.ids.shape)} in {truth}"
                )
            yield found, actual

    return classes, cases(), _left_out("images", by_image.keys() - set(images), predictions)


def _map(path: Path, annotation: dict, classes: ClassMap) -> PanopticMap:
    file = path.with_suffix("") / annotation["file_name"]
    ids = read_segment_ids(file)
    rows = annotation["segments_info"]
    unknown = sorted({row["category_id"] for row in rows} - set(classes.ids))
    if unknown:
        raise ValueError(
            f"{path}: category id {unknown[0]} in image {annotation['image_id']} is not one of the truth's"
        )
    present = np.zeros(1 << 24, bool)  # ids of three bytes
    present[ids] = True
    absent = [row["id"] for row in rows if row["id"] >= 1 << 24 or not present[row["id"]]]
    if absent:
        raise ValueError(
            f"{path}: segment {absent[0]} of image {annotation['image_id']} has no pixel in {file}; expected every "
            "segment of segments_info there"
        )
    present[[0, *(row["id"] for row in rows)]] = False
    if present.any():
        raise ValueError(
            f"{path}: segment {present.argmax()} of image {annotation['image_id']} in {file} is not in segments_info; "
            "expected every segment of the picture there, 0 for pixels of none"
        )
    return PanopticMap(
        torch.from_numpy(ids),
        torch.tensor([row["id"] for row in rows], dtype=torch.int64),
        torch.tensor([classes.label_of(row["category_id"]) for row in rows], dtype=torch.int64),
        torch.tensor([bool(row.get("iscrowd", 0)) for row in rows], dtype=torch.bool),
    )
