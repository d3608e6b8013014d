"""YOLO text files: a data.yaml (path, train, val, names) and one .txt an image: `class cx cy w h`, or a polygon.

Rules. A label file is the image's path with the last `images` folder replaced by `labels`, unless a card names the
folder of the labels · an image without one has no objects · 5 numbers are a box, an odd count from 7 up is a polygon
`class x1 y1 x2 y2 ...`, all relative to the image · an object's number is its line · a class number that has no name,
a line of anything else, or one of pixels, is an error · a line that repeats another of its file, and a label file
without an image, are left out, with a warning · `../train/images` is looked for as `train/images` too (some exports) ·
where nothing names the classes they are "class 0" to the largest number in the files, with a note.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vision.data.card import Card, class_map
from vision.data.dataset import Dataset
from vision.data.files import absolute_path, image_ids, images_in, missing_files, read_lines
from vision.data.image import image_size
from vision.data.pack import AnnotationsBuilder
from vision.data.problem import DataError, Problem, as_problem
from vision.data.segment import segment_area
from vision.structures import ClassMap

__all__ = ["card_of_data_yaml", "label_path", "read_yolo"]

PIXELS_FROM = 2.0  # what passes the edge of an image, as far as boxes do, is a share below this


def card_of_data_yaml(path: Path, content: Mapping[str, Any]) -> Card:
    """A Card of a data.yaml. `path` in it is relative to the folder of the file. DataError names the wrong key."""
    root = path.parent / Path(str(content.get("path") or ".")).expanduser()
    splits = {split: {"images": content[split]} for split in ("train", "val", "test") if content.get(split)}
    if not splits:
        raise DataError(f"{path}: neither train nor val; expected folders or lists of images under these keys")
    names = content.get("names")
    if names is None and isinstance(content.get("nc"), int):
        names = [f"class {number}" for number in range(content["nc"])]
    if names is None:
        raise DataError(f"{path}: no names; expected the class names, as a list or as {{number: name}}")
    return Card(path.parent.name, "yolo", root, splits, class_map(path, names), file=str(path))


def label_path(image: str) -> str:
    """The label file of an image: .../images/a/b.jpg -> .../labels/a/b.txt; beside the image when no such folder."""
    parts = image.split(os.sep)
    stem = os.path.splitext(parts.pop())[0]
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return os.sep.join([*parts, f"{stem}.txt"])


def read_yolo(card: Card, split: str, task: str | None = None) -> Dataset:
    """The split as a Dataset; reads the header of every image, because the labels are relative to its size."""
    images = _image_paths(card, split)
    origin = card.file or str(card.root)
    if not images:
        raise DataError(f"{origin}: an empty data set (no images in split {split}); put images there")
    label_path = _label_path(card, split)
    builder = AnnotationsBuilder(lambda image, line: (label_path(image), f"line {line}"))
    classes = card.classes
    if classes is None:
        classes = _classes_found(card)
        value = f"{len(classes)} class numbers (0..{len(classes) - 1}) without names"
        builder.problems.append(
            Problem("note", origin, "", value, "classes.txt, a data.yaml or a card that names them")
        )
    labels = {number: label for label, number in enumerate(classes.ids)}
    absent = {problem.value: problem for problem in missing_files(images, "image", origin)}
    builder.problems += absent.values()
    for image, image_id in zip(images, image_ids(images)):
        if f"image {image} does not exist" in absent:
            continue
        try:
            size = image_size(image)
        except DataError as error:
            builder.problems.append(as_problem(error, image, "an image"))
            continue
        builder.add_image(image, image_id, size)
        _add_lines(builder, labels, label_path(image), size)
    builder.problems += _orphans(images, label_path)
    annotations = builder.finish()
    return Dataset(card.name, split, classes, annotations.tasks, annotations, problems=builder.problems)


def _label_path(card: Card, split: str) -> Callable[[str], str]:
    """The label file of an image: in the folder of a card's `labels`, else as YOLO has it."""
    labels = card.entry(split, "labels")
    if labels is None:
        return label_path
    images = card.splits[split]["images"]
    if not isinstance(images, str) or not (card.root / images).is_dir():
        raise DataError(
            f"{card.file or card.root}: split {split}: `labels` beside {images!r}; expected one folder there"
        )
    return lambda image: str((labels / os.path.relpath(image, card.root / images)).with_suffix(".txt"))


def _classes_found(card: Card) -> ClassMap:
    """Numbers up to the largest one in the label files of all splits; their readers tell of lines that are wrong."""
    largest = 0
    for split in card.splits:
        label_path = _label_path(card, split)
        for image in _image_paths(card, split):
            numbers = (text.split()[0] for _, text in _label_lines(label_path(image)))
            largest = max(largest, *(int(number) for number in numbers if number.isdecimal()), 0)
    return ClassMap(tuple(f"class {number}" for number in range(largest + 1)))


def _image_paths(card: Card, split: str) -> list[str]:
    places = card.splits[split]["images"]
    recursive = places != card.splits[split].get("labels")
    paths: list[str] = []
    for place in places if isinstance(places, list) else [places]:
        if not isinstance(place, str):
            origin = card.file or card.root
            raise DataError(f"{origin}: {split}: {places!r}; expected a folder, a list file, or several")
        where = Path(absolute_path(card.root, place))
        if not where.exists() and place.startswith("../"):
            where = Path(absolute_path(card.root, place[3:]))
        if where.suffix == ".txt":
            paths += [_listed(line, where, card.root) for line in read_lines(where)]
        elif where.is_dir():
            paths += images_in(where, recursive)
        else:
            raise DataError(
                f"{card.file or card.root}: split {split}: {where} does not exist; expected a folder of images or a "
                "list file; mend `path` or the split"
            )
    return paths


def _listed(line: str, list_file: Path, root: Path) -> str:
    """A line of a list file: absolute, `./` relative to the list, else relative to the root of the data set."""
    return absolute_path(list_file.parent if line.startswith("./") else root, line)


def _label_lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    except FileNotFoundError:
        return
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file; expected lines of `class cx cy w h`") from None


def _orphans(images: list[str], label_path: Callable[[str], str]) -> list[Problem]:
    """A warning for each label file, in the folders of the labels, that no image belongs to, of this split or another:
    images of all splits may lie in one folder."""
    labels = {label_path(image) for image in images}
    for folder in {os.path.dirname(image) for image in images}:
        labels |= {label_path(image) for image in (images_in(Path(folder)) if os.path.isdir(folder) else ())}
    found = [
        str(path)
        for folder in sorted({os.path.dirname(path) for path in labels})
        for path in Path(folder).glob("*.txt")
    ]
    lists = {"classes.txt", "train.txt", "val.txt", "test.txt"}
    lost = sorted(path for path in found if path not in labels and os.path.basename(path) not in lists)
    return [
        Problem("warning", path, "", "a label file without an image", "its image; the file is left out")
        for path in lost
    ]


def _add_lines(builder: AnnotationsBuilder, labels: dict[int, int], path: str, size: tuple[int, int]) -> None:
    """The objects of a label file, each once."""
    seen: dict[str, int] = {}
    for line, text in _label_lines(path):
        first = seen.setdefault(" ".join(text.split()), line)
        if first == line:
            _add_line(builder, labels, (path, line, text), size)
        else:
            value, expected = f"the same as line {first}", "each object once; the line is left out"
            builder.problems.append(Problem("warning", path, f"line {line}", value, expected))


def _add_line(
    builder: AnnotationsBuilder, labels: dict[int, int], source: tuple[str, int, str], size: tuple[int, int]
) -> None:
    path, line, text = source
    try:
        values = np.array(text.split(), np.float64)
        if not (len(values) == 5 or (len(values) >= 7 and len(values) % 2)) or not np.isfinite(values).all():
            raise ValueError
    except ValueError:
        expected = "`class cx cy w h`, or `class` and the x y of at least 3 points"
        builder.problems.append(Problem("error", path, f"line {line}", repr(text.strip()[:60]), expected))
        return
    if values[0] not in labels:
        expected = f"one of {len(labels)} class numbers ({min(labels)}..{max(labels)})"
        builder.problems.append(Problem("error", path, f"line {line}", f"class {values[0]:g}", expected))
        return
    if np.abs(values[1:]).max() > PIXELS_FROM:
        value, expected = (
            "numbers that look like pixels",
            "shares of the image, 0..1; divide x by its width, y by its height",
        )
        builder.problems.append(Problem("error", path, f"line {line}", value, expected))
        return
    scale = np.array(size[::-1], np.float64)
    label = labels[int(values[0])]
    if len(values) == 5:
        centre, sides = values[1:3] * scale, values[3:5] * scale
        builder.add_object((*(centre - sides / 2).tolist(), *(centre + sides / 2).tolist()), label, line)
    else:
        points = values[1:].reshape(-1, 2) * scale
        ring = points.ravel()
        box = (*points.min(0).tolist(), *points.max(0).tolist())
        builder.add_object(box, label, line, segment=[ring], area=segment_area([ring], size))
