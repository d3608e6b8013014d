"""Images with one mask each: a list of `image mask` lines (CamVid) or of names, or two folders with equal names.

Rules. A mask has one channel or a palette; its values are class numbers, 255 is ignored, any other value without a
class is an error · where a card has `colours` masks are in colours, and one without a class is an error · names come
from the card or from classes.txt (a line a class); without them the values that occur in some split are the classes ·
masks of 0 and 255 alone are binary: 255 is the second class, with a note, unless a card has `values`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vision.data.card import Card
from vision.data.dataset import ClassMasks, Dataset
from vision.data.files import absolute_path, image_ids, images_in, missing_files, read_lines
from vision.data.image import image_size, read_index_mask
from vision.data.pack import AnnotationsBuilder, PackedText
from vision.data.problem import DataError, Problem, as_problem
from vision.structures import ClassMap

__all__ = ["read_masks", "value_table"]

BINARY_SAMPLE = 32  # masks looked at to tell a binary data set of 0 and 255


def read_masks(card: Card, split: str, task: str | None = None) -> Dataset:
    """The split as a semantic Dataset; reads the header of every image for its size."""
    pairs, origin = _pairs(card, split)
    if not pairs:
        raise DataError(f"{origin}: an empty data set (no images); expected pairs of an image and a mask")
    builder = AnnotationsBuilder(lambda image, place: (image, ""))
    builder.problems += missing_files((image for image, _ in pairs), "image", origin)
    builder.problems += missing_files((mask for _, mask in pairs), "mask", origin)
    missing = {problem.value.split(" ", 1)[1].removesuffix(" does not exist") for problem in builder.problems}
    pairs = [pair for pair in pairs if not missing & set(pair)]
    if not pairs:
        raise DataError(
            f"{builder.problems[0].file}: {builder.problems[0].value}, nor does any other pair; check the paths"
        )
    colours = np.array(sorted(card.colours), np.int32) if card.colours else None
    looked_at = [mask for _, mask in pairs] if card.classes else _masks_of_all_splits(card)
    classes, table = _meaning(card, looked_at, origin, builder.problems)
    kept = []
    for (image, mask), image_id in zip(pairs, image_ids([image for image, _ in pairs])):
        try:
            builder.add_image(image, image_id, image_size(image))
            kept.append(mask)
        except DataError as error:
            builder.problems.append(as_problem(error, image, "an image"))
    class_masks = ClassMasks(PackedText(kept), table, colours)
    return Dataset(
        card.name, split, classes, ["semantic"], builder.finish(), problems=builder.problems, class_masks=class_masks
    )


def value_table(classes: ClassMap, values: Mapping[int, str], origin: str) -> np.ndarray:
    """labels (K,) int32 of `ClassMasks`: the ids of the classes, 255 ignored (with more than 255 classes 65535 too),
    then a card's `values` (value -> class name or "ignore"). DataError names a class that is not known."""
    table = np.full(max(256, *(int(value) + 1 for value in (*classes.ids, *values))), -2, np.int32)
    table[255] = -1
    if len(classes) > 255:
        table = np.pad(table, (0, max(0, 65536 - len(table))), constant_values=-2)
        table[65535] = -1  # what predictions of so many classes have there
    table[list(classes.ids)] = np.arange(len(classes))
    for value, name in values.items():
        table[int(value)] = _label(classes, name, f"{origin}: values: {value}")
    return table


def _label(classes: ClassMap, name: str, place: str) -> int:
    if name != "ignore" and name not in classes.names:
        raise DataError(f"{place}: {name}; expected ignore or one of {', '.join(classes.names)}")
    return -1 if name == "ignore" else classes.names.index(name)


def _pairs(card: Card, split: str) -> tuple[list[tuple[str, str]], str]:
    """(image, mask) paths, and the file or folder that names them."""
    entry = card.splits[split]
    if "list" in entry:
        path = card.entry(split, "list")
        return [_listed_pair(card, path, number, line) for number, line in enumerate(read_lines(path), 1)], str(path)
    images, masks = card.entry(split, "images"), card.entry(split, "masks")
    if images is None or masks is None:
        raise DataError(f"{card.file}: split {split}: expected `list`, or both `images` and `masks`")
    return _folder_pairs(images, masks, entry.get("image_suffix"), entry.get("mask_suffix")), str(images)


def _masks_of_all_splits(card: Card) -> list[str]:
    """Those that there are: a class that one split lacks is a class all the same."""
    masks: dict[str, None] = {}
    for split in card.splits:
        try:
            masks |= dict.fromkeys(mask for _, mask in _pairs(card, split)[0] if os.path.exists(mask))
        except DataError:
            continue  # told by whoever reads that split
    return list(masks)


def _listed_pair(card: Card, path: Path, number: int, line: str) -> tuple[str, str]:
    parts = line.split()
    if len(parts) == 1 and (card.root / "images").is_dir() and (card.root / "masks").is_dir():
        parts = [f"images/{parts[0]}", f"masks/{parts[0]}"]
    if len(parts) != 2:
        raise DataError(f"{path}, line {number}: {line!r}; expected `image mask`, two paths without spaces")
    # a leading slash is the root of the data set in some lists (CamVid as SegNet ships it)
    return tuple(
        part if os.path.isabs(part) and os.path.exists(part) else absolute_path(card.root, part.lstrip("/"))
        for part in parts
    )


def _folder_pairs(
    images: Path, masks: Path, image_suffix: str | None, mask_suffix: str | None
) -> list[tuple[str, str]]:
    by_stem: dict[str, str] = {}
    recursive = images != masks
    for mask in images_in(masks, recursive):
        name = os.path.relpath(mask, masks)
        if mask_suffix is None or name.endswith(mask_suffix):
            by_stem[name.removesuffix(mask_suffix) if mask_suffix else os.path.splitext(name)[0]] = mask
    pairs = []
    drawn = set(by_stem.values()) if mask_suffix else set()
    for image in images_in(images, recursive):
        if image in drawn:  # a mask beside its image
            continue
        name = os.path.relpath(image, images)
        if image_suffix is None or name.endswith(image_suffix):
            stem = name.removesuffix(image_suffix) if image_suffix else os.path.splitext(name)[0]
            expected = str(masks / f"{stem}{mask_suffix or '.png'}")
            pairs.append((image, by_stem.get(stem, expected)))
    return pairs


def _meaning(card: Card, masks: list[str], origin: str, problems: list[Problem]) -> tuple[ClassMap, np.ndarray]:
    """Classes and value table: stated by the card, or found in the masks."""
    classes = card.classes
    if card.colours:
        place = f"{card.file}: colours"
        return classes, np.array([_label(classes, name, place) for _, name in sorted(card.colours.items())], np.int32)
    if classes is not None and card.values:
        return classes, value_table(classes, card.values, card.file)
    binary = _is_binary(masks) if classes is None or len(classes) == 2 else False
    if binary:
        value = "masks with the values 0 and 255 alone"
        problems.append(Problem("note", origin, "", value, "255 to be ignored; here it is taken as the second class"))
        classes = classes or ClassMap(("background", "foreground"))
        table = np.full(256, -2, np.int32)
        table[[0, 255]] = [0, 1]
        return classes, table
    if classes is None:
        classes = _classes_found(masks, origin, problems)
    return classes, value_table(classes, {}, origin)


def _is_binary(masks: list[str]) -> bool:
    step = max(1, len(masks) // BINARY_SAMPLE)
    sample = masks[::step]
    values: set[int] = set()
    for number, mask in enumerate([*sample, *(mask for place, mask in enumerate(masks) if place % step)]):
        if number >= len(sample) and values != {0}:  # background alone may have a foreground that is rare
            break
        values |= set(np.unique(read_index_mask(mask)).tolist())
        if not values <= {0, 255}:
            return False
    return 255 in values


def _classes_found(masks: list[str], origin: str, problems: list[Problem]) -> ClassMap:
    values: set[int] = set()
    for mask in masks:
        values |= set(np.unique(read_index_mask(mask)).tolist())
    found = sorted(values - {255})
    shown = f"{len(found)} values ({found[0]}..{found[-1]}) without names" if found else "masks of 255 alone"
    if not found:
        raise DataError(f"{origin}: {shown}; expected class numbers")
    problems.append(
        Problem("note", origin, "", shown, "classes.txt or a card that names them; each is taken as a class")
    )
    return ClassMap(tuple(f"class {value}" for value in found), tuple(found))
