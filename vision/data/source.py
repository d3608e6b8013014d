"""What `--data` may be, and how it is recognised: everything becomes a Card, and a Card has one reader.

A path that exists comes first: a card (YAML with `format`), a YOLO data.yaml, a COCO instances or panoptic JSON, a
folder in one of the layouts of `data.layout`. Then names: `shapes` (`shapes:count=200,size=128,seed=0`), and the
built-in cards (`NAME`, `NAME=FOLDER`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vision.data.card import Card, built_in_cards, read_card
from vision.data.dataset import Dataset
from vision.data.layout import card_of_file, card_of_folder
from vision.data.paint import with_semantic_masks
from vision.data.paired import SPLIT_WORDS
from vision.data.part import named_part, take_part
from vision.data.problem import DataError, MissingSplit

__all__ = ["find_card", "open_dataset", "read_split", "split_name", "splits_present"]

TASKS = ("detection", "instance", "semantic", "panoptic", "multilabel")


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
    dataset.task = task
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
        return card_of_folder(path)
    if path.is_file():
        return card_of_file(path)
    name, _, folder = str(data).partition("=")
    cards = built_in_cards()
    if name in cards:
        return read_card(cards[name], Path(folder).expanduser() if folder else None, built_in=True)
    raise DataError(
        f"{data}: there is no such file or folder, and no built-in data set of that name "
        f"({', '.join(['shapes', *cards])}); check the path"
    )
