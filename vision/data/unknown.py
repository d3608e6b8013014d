"""What is said of a folder that is no data set, or more than one: what was found in it, and what to do next."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from vision.data.card import Card
from vision.data.image import IMAGE_SUFFIXES
from vision.data.paired import ANNOTATION_FOLDERS, ANNOTATION_KEYS, IMAGE_FOLDERS, SPLIT_WORDS
from vision.data.problem import DataError

__all__ = ["describe", "one_of"]

LOOKED_AT, NAMED = 20_000, 5  # files below a folder, folders in a message
FEW = 3  # JSON files of COCO: splits; more are of one image each
NAMES = {"coco": "COCO", "voc": "VOC", "yolo": "YOLO", "masks": "masks"}
READ = "datasets/README.md draws the layouts that are read"


def one_of(cards: list[Card]) -> str:
    """Of a folder that several layouts fit."""
    kinds = ", ".join(f"{NAMES[card.format]} ({_where(card)})" for card in cards)
    texts = " or ".join(
        _card_text(card.name, card.format, next(iter(card.splits.values()))) for card in cards if card.format != "coco"
    )  # a COCO file can be named by itself
    file = cards[0].root / "card.yaml"
    return f"several data sets in one: {kinds}; take the others out, or say which in {file}: {texts}; {READ}"


def describe(root: Path, recognise: Callable[[Path], list[Card]]) -> str:
    """Of a folder that no layout fits. `recognise` gives the cards of a folder, none where no layout fits."""
    for above in root.resolve().parents[:2]:
        for card in _recognised(above, recognise):
            if _is_part(root.resolve(), card):
                return f"a part of a data set; the folder above, {above}, is one ({NAMES[card.format]}): name that"
    inside = {
        path.name: NAMES[cards[0].format]
        for path in islice(sorted(path for path in root.iterdir() if path.is_dir()), 50)
        if len(cards := _recognised(path, recognise)) == 1 and _count(_kinds(path), IMAGE_SUFFIXES)
    }
    if inside:
        named = ", ".join(f"{name}/ ({kind})" for name, kind in islice(inside.items(), NAMED))
        return f"no data set itself; of its folders these are: {named}; name one, as {root / next(iter(inside))}"
    return _found(root)


def _is_part(folder: Path, card: Card) -> bool:
    """Whether a data set above the folder is likely to use it: by its name, or as the card names something in it."""
    places = [place for entry in card.splits.values() for place in entry.values() if isinstance(place, str | Path)]
    if "." in map(str, places):  # the files of the folder above itself, none of those below
        return False
    words = {*IMAGE_FOLDERS, *ANNOTATION_FOLDERS, "imagesets", *(word for own in SPLIT_WORDS.values() for word in own)}
    named = (card.root.resolve() / place for place in places)
    return folder.name.lower() in words or any(folder in (place, *place.parents) for place in named)


def _found(root: Path) -> str:
    kinds = _kinds(root)
    images = {folder: count for folder, count in _count(kinds, IMAGE_SUFFIXES).items() if count}
    shown = ", ".join(
        " and ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
        + f" in {folder if folder != '.' else 'it'}"
        for folder, counts in islice(kinds.items(), NAMED)
    ) + (", ..." if len(kinds) > NAMED else "")
    if not kinds:
        return f"an empty data set (no file in the folder); check the path; {READ}"
    if not images:
        return f"an empty data set (no images in the folder); found {shown}; {READ}"
    few = max(images.values()) // 4  # a README.txt is no annotation
    notes = [suffix for suffix in (".xml", ".txt") if sum(_count(kinds, {suffix}).values()) > few]
    notes += [".json"] if _count(kinds, {".json"}) and not notes else []
    if not notes and len(images) == 1:
        return (
            f"images alone; found {shown}. A data set needs annotations: .xml (VOC), .txt (YOLO) or masks with the "
            f"names of the images, or a COCO .json; {READ}"
        )
    if notes == [".json"] and sum(_count(kinds, {".json"}).values()) > FEW:
        return f"no known layout; found {shown}. JSON files of one image each are not read: export COCO, VOC or YOLO"
    card = _guess(root, kinds, images, notes)
    return f"no known layout; found {shown}. {READ}; or describe yours in {root / 'card.yaml'}, as: {card}"


def _guess(root: Path, kinds: dict[str, Counter], images: dict[str, int], notes: list[str]) -> str:
    """A card of the folders that were found, to be corrected by whoever knows the data."""
    folder = max(images, key=images.get)
    if not notes:
        masks = max((other for other in images if other != folder), key=images.get)
        if masks in ("images", "imgs") or "mask" in folder.lower():
            folder, masks = masks, folder
        entry = {"images": folder, "masks": masks} | _mask_suffix(root / folder, root / masks)
        return _card_text(root.resolve().name, "masks", entry)
    counts = _count(kinds, {notes[0]})
    where = max(counts, key=counts.get)
    if notes[0] == ".json":
        file = min((root / where).glob("*.json"))
        entry = {"annotations": str(file.relative_to(root)), "images": folder}
        return _card_text(root.resolve().name, "coco", entry)
    kind = {".xml": "voc", ".txt": "yolo"}[notes[0]]
    return _card_text(root.resolve().name, kind, {"images": folder, ANNOTATION_KEYS[kind]: where})


def _mask_suffix(images: Path, masks: Path) -> dict[str, str]:
    """What follows the names of images in those of masks."""
    names = sorted(os.listdir(masks))
    for stem in (Path(name).stem for name in sorted(os.listdir(images))):
        longer = [name for name in names if name.startswith(stem) and Path(name).stem != stem]
        if longer:
            return {"mask_suffix": longer[0].removeprefix(stem)}
    return {}


def _kinds(root: Path) -> dict[str, Counter]:
    """How many files of each suffix lie in each folder below `root`, relative to it."""
    found: dict[str, Counter] = {}
    for folder, name in islice(_files(root), LOOKED_AT):
        found.setdefault(folder, Counter())[Path(name).suffix.lower() or "no suffix"] += 1
    return found


def _files(root: Path) -> Iterator[tuple[str, str]]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        yield from ((os.path.relpath(folder, root), name) for name in sorted(names) if not name.startswith("."))


def _count(kinds: dict[str, Counter], suffixes: set[str] | frozenset[str]) -> dict[str, int]:
    counts = {folder: sum(found[suffix] for suffix in suffixes) for folder, found in kinds.items()}
    return {folder: count for folder, count in counts.items() if count}


def _recognised(folder: Path, recognise: Callable[[Path], list[Card]]) -> list[Card]:
    try:
        return recognise(folder)
    except (DataError, OSError):  # another folder than the one that was asked for, where nothing has to be right
        return []


def _where(card: Card) -> str:
    entry = next(iter(card.splits.values()))
    places = [Path(place).name or "." for key, place in entry.items() if key != "mask_suffix"]
    return ", ".join(dict.fromkeys(places))


def _card_text(name: str, kind: str, entry: Mapping[str, Any]) -> str:
    """A card on one line, as errors are."""
    import yaml

    text = {"name": name, "format": kind, "splits": {"train": {key: str(value) for key, value in entry.items()}}}
    return yaml.safe_dump(text, default_flow_style=True, sort_keys=False, width=10_000).strip()
