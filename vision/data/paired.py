"""Folders in which images and annotations have equal names: what they are follows from where they lie and of what type.

images          annotations                         kind of file
images/         annotations/, labels/ or masks/     .xml: VOC; .txt: YOLO; pictures: masks, NAME.png or NAME_mask.png
the folder      the same folder                     .xml: VOC; .txt: YOLO; pictures: masks, NAME_mask.png

Each of these as it is, which is one split (train); with train/, val/ and test/ below both folders; or below train/,
val/ and test/. The other spellings are those of IMAGE_FOLDERS, ANNOTATION_FOLDERS and SPLIT_WORDS, in capitals too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vision.data.card import Card, class_map
from vision.data.files import read_lines
from vision.data.image import IMAGE_SUFFIXES
from vision.data.problem import DataError
from vision.structures import ClassMap

__all__ = [
    "ANNOTATION_KEYS", "IMAGE_FOLDERS", "SPLIT_WORDS", "named_classes", "paired_cards", "sub_folders",
]  # fmt: skip

SPLIT_WORDS = {
    "train": ("train", "train2017", "training", "train2014", "trainval"),
    "val": ("val", "val2017", "valid", "validation", "val2014"),
    "test": ("test", "testing", "test2017"),
}
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
ANNOTATION_FOLDERS = ("annotations", "annotation", "labels", "label", "masks", "mask")
ANNOTATION_KEYS = {"voc": "annotations", "yolo": "labels", "masks": "masks"}  # of a card's split
ANNOTATION_SUFFIXES = {"voc": {".xml"}, "yolo": {".txt"}, "masks": IMAGE_SUFFIXES}
MASK_MARK = "_mask"


def paired_cards(root: Path) -> list[Card]:
    """A Card for each layout that fits the folder; none or several are for the caller to refuse."""
    found: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for layout, split, images, notes in _places(root):
        for kind, entry in _entries(root, images, notes):
            found.setdefault((kind, *layout), {}).setdefault(split, entry)
    return [
        Card(root.resolve().name, layout[0], root, splits, _classes(root, layout[0], splits), file=str(root))
        for layout, splits in found.items()
    ]


def sub_folders(folder: Path) -> dict[str, str]:
    """Names of the folders in `folder`, by the same in small letters."""
    return {path.name.lower(): path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else {}


def named_classes(*folders: Path) -> ClassMap | None:
    """The classes of classes.txt, a line a class, in one of the folders. DataError when two of them disagree."""
    files = [folder / "classes.txt" for folder in dict.fromkeys(folders)]
    found = {path: class_map(path, read_lines(path)) for path in files if path.is_file()}
    (first, classes), *others = [*found.items()] or [(None, None)]
    for path, other in others:
        if other != classes:
            raise DataError(f"{path}: other classes than in {first}; keep the one whose order the numbers follow")
    return classes


def _places(root: Path) -> Iterator[tuple[tuple[str, ...], str, str, str]]:
    """Pairs of folders, relative to `root`, in which a split may lie: (layout, split, images, annotations)."""
    words = [(split, word) for split, words in SPLIT_WORDS.items() for word in words]
    for images, notes in [*_pairs_of_folders(root), (".", ".")]:
        divided = [
            (split, word) for split, word in words if all((root / top / word).is_dir() for top in (images, notes))
        ]
        for split, word in divided:
            yield (images, notes), split, str(Path(images, word)), str(Path(notes, word))
        if not divided:
            yield (images, notes), "train", images, notes
    for split, word in words:
        for images, notes in _pairs_of_folders(root / word):
            yield (images, notes, "below each split"), split, f"{word}/{images}", f"{word}/{notes}"


def _pairs_of_folders(folder: Path) -> list[tuple[str, str]]:
    there = sub_folders(folder)
    images, notes = ([there[name] for name in names if name in there] for names in (IMAGE_FOLDERS, ANNOTATION_FOLDERS))
    return [(first, second) for first in images for second in notes]


def _entries(root: Path, images: str, notes: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The kinds of annotations that have names of images, with what a card says of them under a split."""
    beside = images == notes
    files = _files(root / images, recursive=not beside)
    stems = {stem for stem, suffix in files if suffix.lower() in IMAGE_SUFFIXES}
    files = files if beside else _files(root / notes, recursive=True)
    for kind, key in ANNOTATION_KEYS.items():
        found = [(stem, suffix) for stem, suffix in files if suffix.lower() in ANNOTATION_SUFFIXES[kind]]
        marked = (suffix for stem, suffix in found if stem.endswith(MASK_MARK) and stem[: -len(MASK_MARK)] in stems)
        if not (beside and kind == "masks") and any(stem in stems for stem, _ in found):
            yield kind, {"images": images, key: notes}
        elif kind == "masks" and (suffix := next(marked, None)):
            yield kind, {"images": images, key: notes, "mask_suffix": MASK_MARK + suffix}


def _files(folder: Path, recursive: bool) -> list[tuple[str, str]]:
    """The files as (path below `folder` without suffix, suffix), sorted."""
    paths = (path for path in (folder.rglob("*") if recursive else folder.iterdir()) if path.suffix)
    return sorted((str(path.relative_to(folder).with_suffix("")), path.suffix) for path in paths)


def _classes(root: Path, kind: str, splits: dict[str, dict[str, Any]]) -> ClassMap | None:
    """Those of classes.txt in the folder; of YOLO also beside the label files, where labelImg writes it."""
    beside = [Path(entry["labels"]) for entry in splits.values()] if kind == "yolo" else []
    return named_classes(root, *(root / folder for label in beside for folder in (label, label.parent)))
