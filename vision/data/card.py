"""Data set cards: what a data set is made of, in a YAML file of ours or recognised from the files themselves.

    name: blood                       # for messages and `--data blood`
    format: voc                       # coco, voc, yolo or masks
    path: /data/blood                 # optional; relative to the card, and the card's own folder by default
    splits:
      train: {list: ImageSets/Main/train.txt}
      val: {list: ImageSets/Main/val.txt}
    classes: [platelet, red, white]   # names of 0..C-1, or {id in the files: name}

A built-in card has no path: `--data NAME=FOLDER` gives it, else $VISION_DATA/NAME or ./data/NAME is taken.
Keys of a split. coco: images (folder), annotations (JSON), panoptic (JSON), panoptic_masks (folder). voc: list,
segmentation_list, segmentation_masks (folder of the class masks; default: SegmentationClass), images and annotations
(folders; default: JPEGImages and Annotations); without a list the images that have an XML. yolo: images (folder, list
file, or several), labels (folder; beside one folder of images). masks: list (`image mask` a line), or images and masks
(folders; with image_suffix and mask_suffix, what follows the part of the names that a pair has in common).
Where images and annotations are one folder, the folders below it are not looked into.
masks: a value is the class of that id, 255 is ignored; `values: {value: class name or ignore}` adds to that. Masks in
colours: `colours: {R G B: class name or ignore}`, several for a class where it has several.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vision.data.files import read_yaml
from vision.data.problem import DataError
from vision.structures import ClassMap

__all__ = ["Card", "built_in_cards", "read_card"]

SPLIT_KEYS = {
    "coco": {"images", "annotations", "panoptic", "panoptic_masks"},
    "voc": {"list", "segmentation_list", "segmentation_masks", "images", "annotations"},
    "yolo": {"images", "labels"},
    "masks": {"list", "images", "masks", "image_suffix", "mask_suffix"},
}
CARD_KEYS = {
    "name",
    "title",
    "format",
    "path",
    "splits",
    "classes",
    "values",
    "colours",
    "source",
    "licence",
    "download",
}


@dataclass(frozen=True)
class Card:
    """Where a data set lies and what its files mean; keys as in the module's docstring."""

    name: str
    format: str
    root: Path
    splits: Mapping[str, Mapping[str, Any]]
    classes: ClassMap | None = None
    values: Mapping[int, str] = field(default_factory=dict)
    colours: Mapping[int, str] = field(default_factory=dict)  # R * 65536 + G * 256 + B
    file: str = ""
    default_split: str = "train"

    def entry(self, split: str, key: str) -> Path | None:
        """The path that the split has under `key`, below the root."""
        value = self.splits[split].get(key)
        return None if value is None else self.root / value


def built_in_cards() -> dict[str, Path]:
    """The cards that come with the package, by name."""
    from importlib.resources import files

    for folder in (files("vision") / "datasets", Path(__file__).parents[2] / "datasets"):  # installed, or a checkout
        cards = {path.name.removesuffix(".yaml"): path for path in _yaml_files(folder)}
        if cards:
            return dict(sorted(cards.items()))
    return {}


def _yaml_files(folder: Any) -> list[Path]:
    if not folder.is_dir():
        return []
    return [Path(str(path)) for path in folder.iterdir() if path.name.endswith(".yaml")]


def read_card(path: Path, root: Path | None = None, *, built_in: bool = False) -> Card:
    """The card in a YAML file, its root found. DataError names the key that is wrong and what is allowed."""
    content = read_yaml(path)
    _check_keys(path, content)
    name = str(content.get("name", path.stem))
    if root is None and built_in and "path" not in content:
        root = _find_root(name, content.get("download", ""))
    elif root is None:
        root = path.parent / Path(str(content.get("path", "."))).expanduser()
    if not root.is_dir():
        raise DataError(f"{path}: the data are looked for in {root}, which is no folder; mend `path`")
    return Card(
        name=name,
        format=content["format"],
        root=root,
        splits={str(split): dict(entry) for split, entry in content["splits"].items()},
        classes=class_map(path, content["classes"]) if "classes" in content else None,
        values=content.get("values", {}),
        colours=_colours(path, content),
        file=str(path),
    )


def _find_root(name: str, download: str) -> Path:
    places = [Path(os.environ["VISION_DATA"]) / name] if os.environ.get("VISION_DATA") else []
    places.append(Path("data") / name)
    for place in places:
        if place.is_dir():
            return place
    looked = " and ".join(str(place.absolute()) for place in places)
    advice = f" {' '.join(str(download).split())}" if download else ""
    raise DataError(
        f"data set {name}: no folder at {looked}; say where it is with `{name}=FOLDER`, or set VISION_DATA to the "
        f"folder that holds {name}/.{advice}"
    )


def class_map(path: Path | str, content: Any) -> ClassMap:
    """A ClassMap of names or of {id: name}; panoptic stuff is marked by {id: {name: ..., thing: false}}."""
    try:
        if isinstance(content, Mapping):
            ids = sorted(int(key) for key in content)
            values = {int(key): value for key, value in content.items()}
            entries = [value if isinstance(value, Mapping) else {"name": value} for value in map(values.get, ids)]
            things = tuple(bool(entry.get("thing", True)) for entry in entries)
            return ClassMap(tuple(str(entry["name"]) for entry in entries), tuple(ids), things)
        if isinstance(content, list) and content:
            return ClassMap(tuple(map(str, content)))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: classes: {error}; expected a list of names or {{id: name}}") from None
    raise DataError(f"{path}: classes: {content!r}; expected a list of names or {{id: name}}")


def _colours(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    """`colours` with the colour as one number; the names are checked by the reader of masks."""
    colours = {}
    for key, name in dict(content.get("colours", {})).items():
        channels = str(key).replace(",", " ").split()
        if len(channels) != 3 or not all(channel.isdecimal() and int(channel) < 256 for channel in channels):
            raise DataError(
                f"{path}: colours: {key!r}; expected red, green and blue from 0 to 255, as `128 64 0: road`"
            )
        red, green, blue = map(int, channels)
        colours[red * 65536 + green * 256 + blue] = str(name)
    return colours


def _check_keys(path: Path, content: Mapping[str, Any]) -> None:
    unknown = sorted(set(content) - CARD_KEYS)
    if unknown:
        raise DataError(f"{path}: unknown key {unknown[0]!r}; expected {', '.join(sorted(CARD_KEYS))}")
    if content.get("format") not in SPLIT_KEYS:
        raise DataError(f"{path}: format {content.get('format')!r}; expected one of {', '.join(SPLIT_KEYS)}")
    splits = content.get("splits")
    if not isinstance(splits, Mapping) or not splits:
        raise DataError(f"{path}: splits {splits!r}; expected at least one, as `train: {{...}}`")
    allowed = SPLIT_KEYS[content["format"]]
    for split, entry in splits.items():
        if not isinstance(entry, Mapping):
            raise DataError(f"{path}: split {split}: {entry!r}; expected {{{', '.join(sorted(allowed))}: ...}}")
        unknown = sorted(set(entry) - allowed)
        if unknown:
            raise DataError(f"{path}: split {split}: unknown key {unknown[0]!r}; expected {', '.join(sorted(allowed))}")
    for key, form in (("values", "value"), ("colours", "R G B")):
        if not isinstance(content.get(key, {}), Mapping):
            raise DataError(f"{path}: {key} {content[key]!r}; expected {{{form}: class name or ignore}}")
    if "colours" in content and ("values" in content or "classes" not in content or content["format"] != "masks"):
        raise DataError(f"{path}: colours are for `format: masks`, with `classes` and without `values`")
