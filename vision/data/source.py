"""What `--data` may be, and how it is recognised: everything becomes a Card, and a Card has one reader.

A path that exists comes first: a card (YAML with `format`), a YOLO data.yaml, a COCO instances or panoptic JSON, a
folder in one of these layouts. Then names: `shapes` (`shapes:count=200,size=128,seed=0`), and the built-in cards
(`NAME`, `NAME=FOLDER`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision.data.card import Card, built_in_cards, class_map, read_card
from vision.data.dataset import Dataset
from vision.data.files import read_lines, read_yaml
from vision.data.paint import with_semantic_masks
from vision.data.part import named_part, take_part
from vision.data.problem import DataError, MissingSplit

__all__ = ["find_card", "open_dataset", "read_split", "split_name", "splits_present"]

TASKS = ("detection", "instance", "semantic", "panoptic", "multilabel")
SPLIT_WORDS = {
    "train": ("train", "train2017", "training", "train2014", "trainval"),
    "val": ("val", "val2017", "valid", "validation", "val2014"),
    "test": ("test", "testing", "test2017"),
}


def open_dataset(data: str | Path, split: str | None = None, task: str | None = None) -> Any:
    """The data set that `data` names, as a `Dataset` (or a ShapesDataset, which has the same interface).

    data: see the module's docstring · split: "train", "val", "test" or a name of the data set's own, or a part of one
    such as "train:80%" (see `data.part`); by default "train", but the named file itself when `data` is a JSON file ·
    task: "detection", "instance", "semantic" or "panoptic", which chooses between several annotations of one data set
    (None: boxes where there are any). Where there are instance masks alone, "semantic" paints them (`data.paint`);
    "multilabel" takes class maps where there are some, else instance masks, which may overlap (`data.layers`).
    DataError (a ValueError) names the file and what is wrong with it. Warnings are in `.problems`.
    """
    if task is not None and task not in TASKS:
        raise DataError(f"open_dataset: task {task!r}; expected one of {', '.join(TASKS)}")
    kind = "semantic" if task == "multilabel" else task
    split, share = named_part(split)
    if _shapes_spec(data) is not None:
        from vision.data.shapes import ShapesDataset

        if share is not None:
            raise DataError(f"{data}: {share}% of a generated split; give its `count` instead")
        return ShapesDataset.from_spec(_shapes_spec(data), split or "train", kind)
    card = find_card(data)
    dataset = read_split(card, split_name(card, split, data), kind)
    _refuse_errors(dataset, data)
    if share is not None:
        dataset = take_part(dataset, share)
    if task == "semantic":
        dataset = with_semantic_masks(dataset)
    enough = {"semantic", "instance"} if task == "multilabel" else {task}
    if task is not None and not enough & dataset.tasks:
        raise DataError(f"{data}: annotations for {', '.join(sorted(dataset.tasks))}; the model needs {task}")
    return dataset


def _shapes_spec(data: str | Path) -> str | None:
    text = str(data)
    return text if (text == "shapes" or text.startswith("shapes:")) and not Path(text).exists() else None


def _refuse_errors(dataset: Dataset, data: str | Path) -> None:
    errors = [problem for problem in dataset.problems if problem.severity == "error"]
    if errors:
        more = f", and {len(errors) - 1} more errors" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{more}; `vision check {data}` lists all that is wrong")
    if not len(dataset):
        raise DataError(f"{data}: an empty data set (no images in split {dataset.split})")
    if dataset.tasks & {"detection", "instance"} and not len(dataset.annotations.boxes):
        raise DataError(f"{data}: split {dataset.split} has no annotations; expected objects in some of its images")


def read_split(card: Card, split: str, task: str | None = None) -> Dataset:
    """The split through the reader of the card's format; errors are left in `problems`."""
    from vision.data.coco import read_coco
    from vision.data.masks import read_masks
    from vision.data.voc import read_voc
    from vision.data.yolo import read_yolo

    reader = {"coco": read_coco, "voc": read_voc, "yolo": read_yolo, "masks": read_masks}[card.format]
    return reader(card, split, task)


def split_name(card: Card, split: str | None, data: str | Path = "") -> str:
    """The card's own name of a split. MissingSplit lists the splits that there are."""
    if split is None:
        split = card.default_split
    for name in (split, *SPLIT_WORDS.get(split, ())):
        if name in card.splits:
            return name
    without = ""
    if split in SPLIT_WORDS["val"] and len(card.splits) == 1:
        (only,) = card.splits
        without = f"; to hold images out, take the splits {only}:80% and {only}:-20%"
    raise MissingSplit(
        f"{data or card.file or card.name}: no split {split!r}; there is {', '.join(card.splits)}{without}"
    )


def splits_present(card: Card) -> list[str]:
    """The card's splits without those of which this copy of the data set has no file (CamVid without test)."""
    keys = ("list", "images", "annotations", "panoptic", "segmentation_list")
    present = []
    for split, entry in card.splits.items():
        paths = [card.root / entry[key] for key in keys if isinstance(entry.get(key), str | Path)]
        if not paths or any(path.exists() for path in paths):
            present.append(split)
    return present or list(card.splits)


def find_card(data: str | Path) -> Card:
    """The Card of whatever `data` names. DataError says what was looked for and where."""
    path = Path(data).expanduser()
    if path.is_dir():
        return _card_of_folder(path)
    if path.is_file():
        return _card_of_file(path)
    name, _, folder = str(data).partition("=")
    cards = built_in_cards()
    if name in cards:
        return read_card(cards[name], Path(folder).expanduser() if folder else None, built_in=True)
    raise DataError(
        f"{data}: there is no such file or folder, and no built-in data set of that name "
        f"({', '.join(['shapes', *cards])}); check the path"
    )


def _card_of_file(path: Path) -> Card:
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


def _card_of_json(path: Path) -> Card:
    """The file, and its siblings whose names differ in the split's name alone."""
    splits: dict[str, dict[str, Any]] = {}
    own = next((kind for kind, words in SPLIT_WORDS.items() for word in words if _has_word(path.stem, word)), None)
    kind = "panoptic" if is_panoptic(path) else "annotations"
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


def is_panoptic(path: Path) -> bool:
    """Whether a COCO JSON is of panoptic segments; looks at the text, as parsing a large file takes long."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            while chunk := file.read(1 << 20):
                if '"segments_info"' in chunk:
                    return True
                if '"bbox"' in chunk or '"segmentation"' in chunk:
                    return '"segments_info"' in chunk
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return False


def _card_of_folder(root: Path) -> Card:
    for recognise in (_own_card, _coco_layout, _voc_layout, _yolo_layout, _list_layout, _two_folders):
        card = recognise(root)
        if card is not None:
            return card
    raise DataError(
        f"{root}: no known layout; expected one of: a card or data.yaml, annotations/*.json (COCO), ImageSets/Main and "
        "Annotations (VOC), train.txt of `image mask` lines, or images/ and masks/ (each with train/ and val/ or not)"
    )


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
                    kind = "panoptic" if is_panoptic(path) else "annotations"
                if kind is not None:
                    splits.setdefault(split, {}).setdefault(kind, path.relative_to(root))
    for split in SPLIT_WORDS:  # as Roboflow exports: the file beside the images of the split
        for word in SPLIT_WORDS[split]:
            path = root / word / "_annotations.coco.json"
            if split not in splits and path.is_file():
                splits[split] = {"annotations": path.relative_to(root), "images": word}
    alone = [] if splits else sorted((root / "annotations").glob("*.json"))
    if len(alone) == 1:  # instances_default.json of CVAT, for one: a data set that is not split
        return _card_of_json(alone[0])
    return Card(root.resolve().name, "coco", root, splits, file=str(root)) if splits else None


def _voc_layout(root: Path) -> Card | None:
    splits: dict[str, dict[str, Any]] = {}
    for key, folder in (("list", "Main"), ("segmentation_list", "Segmentation")):
        for path in sorted((root / "ImageSets" / folder).glob("*.txt")):
            if "_" not in path.stem:  # aeroplane_train.txt: one class's list
                splits.setdefault(path.stem, {})[key] = path.relative_to(root)
    if not splits or not (root / "JPEGImages").is_dir():
        return None
    return Card(root.resolve().name, "voc", root, splits, _named_classes(root), file=str(root))


def _yolo_layout(root: Path) -> Card | None:
    for path in (root / "data.yaml", root / "dataset.yaml"):
        if path.is_file():
            return _card_of_file(path)
    return None


def _list_layout(root: Path) -> Card | None:
    lists = {name: root / f"{word}.txt" for name, words in SPLIT_WORDS.items() for word in words[::-1]}
    splits = {name: {"list": path.name} for name, path in lists.items() if path.is_file()}
    return Card(root.resolve().name, "masks", root, splits, _named_classes(root), file=str(root)) if splits else None


def _two_folders(root: Path) -> Card | None:
    images, masks = root / "images", root / "masks"
    if not (images.is_dir() and masks.is_dir()):
        return None
    splits: dict[str, Mapping[str, Any]] = {}
    for split, words in SPLIT_WORDS.items():
        for word in words:
            if (images / word).is_dir() and (masks / word).is_dir():
                splits.setdefault(split, {"images": f"images/{word}", "masks": f"masks/{word}"})
    splits = splits or {"train": {"images": "images", "masks": "masks"}}
    return Card(root.resolve().name, "masks", root, splits, _named_classes(root), file=str(root))


def _named_classes(root: Path) -> Any:
    path = root / "classes.txt"
    return class_map(path, read_lines(path)) if path.is_file() else None
