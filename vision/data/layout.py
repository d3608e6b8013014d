"""The layouts of data sets that are recognised by themselves; each becomes a Card. datasets/README.md draws them.

Files that say what a data set is made of come first, in this order: a card, COCO files in annotations/ or in a folder
a split, VOC's ImageSets, data.yaml, lists (train.txt). Without any, one of these has to fit, and one alone: COCO files
beside the images or their folder, folders of images and annotations with equal names (`data.paired`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vision.data.card import Card, read_card
from vision.data.files import read_lines, read_yaml
from vision.data.image import IMAGE_SUFFIXES
from vision.data.paired import IMAGE_FOLDERS, SPLIT_WORDS, named_classes, paired_cards, sub_folders
from vision.data.problem import DataError
from vision.data.unknown import describe, one_of

__all__ = ["card_of_file", "card_of_folder"]

MANY_FILES = 20  # JSON files in a folder: one an image, which are not looked into


def card_of_file(path: Path) -> Card:
    """The Card of a card, a data.yaml or a COCO JSON. DataError when it is none of these."""
    if path.suffix in (".yaml", ".yml"):
        content = read_yaml(path)
        if "format" in content or "splits" in content:
            return read_card(path)
        from vision.data.yolo import card_of_data_yaml

        return card_of_data_yaml(path, content)
    if path.suffix == ".json":
        return _card_of_json(path)
    raise DataError(
        f"{path}: a file of type {path.suffix or 'unknown'}; expected a card or data.yaml, a COCO .json, or the folder "
        "of a data set"
    )


def card_of_folder(root: Path) -> Card:
    """The Card of a folder in one of the layouts. DataError says what there is instead, and what to do."""
    found = _cards(root)
    if not found:
        raise DataError(f"{root}: {describe(root, _cards)}")
    if len(found) > 1:
        raise DataError(f"{root}: {one_of(found)}")
    return found[0]


def _cards(root: Path) -> list[Card]:
    for recognise in (_own_card, _coco_layout, _voc_layout, _yolo_layout, _list_layout):
        card = recognise(root)
        if card is not None:
            return [card]
    return [*_coco_beside(root), *paired_cards(root)]


def _own_card(root: Path) -> Card | None:
    for path in sorted((*root.glob("*.yaml"), *root.glob("*.yml"))):
        if path.name != "data.yaml" and "format" in read_yaml(path):
            return read_card(path)
    return None


def _coco_layout(root: Path) -> Card | None:
    splits: dict[str, dict[str, Any]] = {}
    for path in sorted((root / "annotations").glob("*.json")):
        for split, words in SPLIT_WORDS.items():
            if any(_has_word(path.stem, word) for word in words):
                prefix = path.stem.split("_")[0]
                kind = {"panoptic": "panoptic", "instances": "annotations"}.get(prefix)
                if kind is None and prefix not in ("captions", "person", "stuff", "image"):
                    kind = "panoptic" if _is_panoptic(path) else "annotations"
                if kind is not None:
                    splits.setdefault(split, {}).setdefault(kind, path.relative_to(root))
    for split in SPLIT_WORDS:  # as Roboflow exports: the file beside the images of the split
        for word in SPLIT_WORDS[split]:
            files = [] if split in splits else _coco_files(root / word)
            if len(files) == 1:
                splits[split] = {"annotations": files[0].relative_to(root)}
    alone = [] if splits else sorted((root / "annotations").glob("*.json"))
    if len(alone) == 1:  # instances_default.json of CVAT, for one: a data set that is not split
        return _card_of_json(alone[0])
    return Card(root.resolve().name, "coco", root, splits, file=str(root)) if splits else None


def _coco_beside(root: Path) -> list[Card]:
    """The COCO files in the folder itself, for one split each, or one file alone."""
    files = _coco_files(root)
    if not files:
        return []
    card = replace(_card_of_json(files[0]), file=str(root), default_split="train")
    read = {path for entry in card.splits.values() for path in entry.values()}
    if any(path.resolve() not in read for path in files):
        named = ", ".join(path.name for path in files)
        raise DataError(f"{root}: COCO files that are no splits of one another ({named}); name the one to read")
    return [card]


def _voc_layout(root: Path) -> Card | None:
    splits: dict[str, dict[str, Any]] = {}
    for key, folder in (("list", "Main"), ("segmentation_list", "Segmentation")):
        for path in sorted((root / "ImageSets" / folder).glob("*.txt")):
            if "_" not in path.stem:  # aeroplane_train.txt: one class's list
                splits.setdefault(path.stem, {})[key] = path.relative_to(root)
    there = sub_folders(root)
    images = next((there[name] for name in ("jpegimages", *IMAGE_FOLDERS) if name in there), None)
    if not splits or images is None:
        return None
    if images != "JPEGImages":
        splits = {split: entry | {"images": images} for split, entry in splits.items()}
    return Card(root.resolve().name, "voc", root, splits, named_classes(root), file=str(root))


def _yolo_layout(root: Path) -> Card | None:
    for path in (root / "data.yaml", root / "dataset.yaml", *sorted((*root.glob("*.yaml"), *root.glob("*.yml")))):
        if path.is_file() and (path.stem in ("data", "dataset") or {"names", "train"} <= set(read_yaml(path))):
            return card_of_file(path)
    return None


def _list_layout(root: Path) -> Card | None:
    files = [(name, root / f"{word}.txt") for name, words in SPLIT_WORDS.items() for word in words[::-1]]
    lists = {name: path for name, path in files if path.is_file()}
    if not lists:
        return None
    first = next(iter(read_lines(next(iter(lists.values())))), "")
    if Path(first).suffix.lower() in IMAGE_SUFFIXES and " " not in first and not (root / "masks").is_dir():
        splits = {name: {"images": path.name} for name, path in lists.items()}  # as Darknet lists images
        return Card(root.resolve().name, "yolo", root, splits, named_classes(root, root / "labels"), file=str(root))
    splits = {name: {"list": path.name} for name, path in lists.items()}
    return Card(root.resolve().name, "masks", root, splits, named_classes(root), file=str(root))


def _card_of_json(path: Path) -> Card:
    """The file, and its siblings whose names differ in the split's name alone."""
    splits: dict[str, dict[str, Any]] = {}
    own = next((kind for kind, words in SPLIT_WORDS.items() for word in words if _has_word(path.stem, word)), None)
    kind = "panoptic" if _is_panoptic(path) else "annotations"
    splits[own or "train"] = {kind: path.resolve()}
    if own is not None:
        old = next(word for word in SPLIT_WORDS[own] if _has_word(path.stem, word))
        for other, words in SPLIT_WORDS.items():
            siblings = (path.with_name(re.sub(rf"{old}(?![a-z0-9])", word, path.name)) for word in words)
            sibling = next((file for file in siblings if file.is_file()), None)
            if sibling is not None:
                splits.setdefault(other, {kind: sibling.resolve()})
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    return Card(root.resolve().name, "coco", root, splits, file=str(path), default_split=own or "train")


def _has_word(stem: str, word: str) -> bool:
    return re.search(rf"(?<![a-z]){word}(?![a-z0-9])", stem) is not None


def _coco_files(folder: Path) -> list[Path]:
    """The JSON files with images and annotations that lie in the folder."""
    files = sorted(folder.glob("*.json"))
    return [path for path in files if _is_coco(path)] if len(files) <= MANY_FILES else []


def _is_coco(path: Path) -> bool:
    wanted = {'"images"', '"annotations"'}
    for text in _pieces(path):
        wanted -= {key for key in wanted if key in text}
        if not wanted:
            return True
    return False


def _is_panoptic(path: Path) -> bool:
    """Whether a COCO JSON is of panoptic segments."""
    for text in _pieces(path):
        if '"segments_info"' in text:
            return True
        if '"bbox"' in text or '"segmentation"' in text:
            return False
    return False


def _pieces(path: Path) -> Iterator[str]:
    """The text of a JSON file in overlapping pieces; to parse a large file takes long."""
    end = ""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            while chunk := file.read(1 << 20):
                yield end + chunk
                end = chunk[-20:]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
