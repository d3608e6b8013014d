"""`vision convert SRC DST --to coco|voc|yolo|masks`: a data set in another format, and what that could not express.

| kept by                  | coco            | voc                        | yolo                | masks           |
|---|---|---|---|---|
| boxes                    | yes             | rounded to whole pixels    | to 6 digits         | no              |
| instance masks, holes    | yes             | where they do not overlap  | as one outline each | the smaller on top |
| crowds                   | yes             | `difficult`, pixels ignored | left out           | pixels ignored  |
| `difficult`, `truncated` | as further keys | yes                        | no                  | no              |
| category ids             | yes             | no                         | no                  | no              |
| stuff of panoptic data   | no              | no                         | no                  | yes             |

Whatever is not kept is counted in the report. Objects without an area are left out and counted. Semantic masks without
objects become masks, or COCO's panoptic files with a segment of stuff for each class. `shapes` becomes PNG images.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from vision.data.dataset import Dataset
from vision.data.image import image_size, write_as_stored
from vision.data.pack import DEGENERATE, STUFF
from vision.data.paint import with_semantic_masks
from vision.data.part import named_part
from vision.data.problem import DataError
from vision.data.source import find_card, open_dataset, split_name, splits_present

__all__ = ["ConversionReport", "convert"]

FORMATS = ("coco", "voc", "yolo", "masks")
STANDARD_SPLITS = ("train", "val", "test")


@dataclass
class ConversionReport:
    """What was written: images of each split and its objects (or what `unit` names), and what the format could not
    express, with its count."""

    destination: Path
    format: str
    splits: dict[str, tuple[int, int]] = field(default_factory=dict)
    losses: Counter = field(default_factory=Counter)
    unit: str = "objects"

    def __str__(self) -> str:
        lines = [f"{self.destination} ({self.format})"]
        lines += [f"  {split}: {images} images, {count} {self.unit}" for split, (images, count) in self.splits.items()]
        lines += [f"  not kept: {count} x {what}" for what, count in self.losses.items()]
        return "\n".join(lines)


@dataclass
class ImageFiles:
    """Lays images into the new data set under names of their own; `link` makes a hard link where that is possible."""

    copy: str
    placed: dict[tuple[Path, str], str] = field(default_factory=dict)

    def place(self, dataset: Dataset, index: int, folder: Path) -> str:
        """The name of the image in `folder`; images of the same name, suffix apart, get a number: annotation files are
        named after them. An image that is annotated as it is stored loses its EXIF orientation."""
        source = dataset.image_path(index)
        stem, number = source.stem, 2
        while self.placed.get((folder, stem), str(source)) != str(source):
            stem, number = f"{source.stem}_{number}", number + 1
        name = stem + source.suffix
        if (folder, stem) not in self.placed:
            self.placed[folder, stem] = str(source)
            folder.mkdir(parents=True, exist_ok=True)
            as_stored = image_size(source) == dataset.size(index)[::-1] != dataset.size(index)
            self._lay(source, folder / name, as_stored)
        return name

    def _lay(self, source: Path, target: Path, as_stored: bool) -> None:
        if as_stored:
            write_as_stored(source, target)
            return
        if self.copy == "link":
            try:
                os.link(source.resolve(), target)
                return
            except OSError:
                pass  # another file system, or one without links
        shutil.copyfile(source, target)


def convert(
    source: str | Path,
    destination: str | Path,
    to: str,
    split: str | None = None,
    copy: str = "link",
    task: str | None = None,
) -> ConversionReport:
    """Writes `source` (as for `open_dataset`) to the new folder `destination` in the format `to`.

    split: one split, or a part of one as "train:80%", which is written under the split's own name (default: train, val
    and test, as far as there are any) · copy: "link" or "copy" the image files ·
    task: "detection" leaves instance masks behind, "semantic" takes the semantic masks where there are several kinds.
    The folder appears when it is complete, or not at all. DataError when it exists, or the source cannot be expressed.
    """
    destination = Path(destination)
    if to not in FORMATS:
        raise DataError(f"convert: format {to!r}; expected one of {', '.join(FORMATS)}")
    if copy not in ("link", "copy"):
        raise DataError(f"convert: copy {copy!r}; expected link or copy")
    if destination.exists():
        raise DataError(f"{destination}: exists already and is left as it is; give the name of a new folder")
    if str(source).partition(":")[0] == "shapes" and not Path(source).exists():
        return _convert_generated(str(source), destination, to, split, task)
    datasets = _open_splits(source, split, to, task)
    partial = destination.with_name(f".{destination.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    report = ConversionReport(destination, to)
    try:
        _write(datasets, partial, to, ImageFiles(copy), report)
        partial.rename(destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return report


def _convert_generated(spec: str, destination: Path, to: str, split: str | None, task: str | None) -> ConversionReport:
    from vision.data.write_generated import write_generated

    if split:
        open_dataset(spec, split)  # refuses what is no split, or a part of one
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as folder:
        files = Path(folder) / "shapes"  # the folder's name becomes the data set's
        write_generated(spec, split, files)
        return convert(files, destination, to, split, task="instance" if task is None and to != "masks" else task)


def _open_splits(source: str | Path, split: str | None, to: str, task: str | None) -> dict[str, Dataset]:
    card = find_card(source)
    split, share = named_part(split)
    names = [split_name(card, split, source)] if split else splits_present(card)
    names = [name for name in names if name in STANDARD_SPLITS] or names
    if to == "masks" and task is None:
        task = _mask_task(source, names[0])
    part = "" if share is None else f":{share}%"
    datasets = {name: open_dataset(source, name + part, task) for name in names}
    if to == "masks":
        datasets = {name: with_semantic_masks(dataset) for name, dataset in datasets.items()}
    if task == "detection":
        for dataset in datasets.values():
            dataset.tasks = frozenset({"detection"})
    if to != "coco":
        _check_same_classes(source, to, datasets)
    tasks = next(iter(datasets.values())).tasks
    if to == "masks" and not tasks & {"semantic", "instance"}:
        raise DataError(f"{source}: boxes alone; masks need semantic or instance masks")
    if to in ("voc", "yolo") and "detection" not in tasks:
        raise DataError(
            f"{source}: semantic masks without objects, which {to} cannot express; convert to masks or coco"
        )
    return datasets


def _check_same_classes(source: str | Path, to: str, datasets: dict[str, Dataset]) -> None:
    (first, known), *others = ((split, dataset.classes.names) for split, dataset in datasets.items())
    for split, names in others:
        if names != known:
            raise DataError(
                f"{source}: the classes of {split} ({', '.join(names)}) are not those of {first} "
                f"({', '.join(known)}); {to} has one list for all splits: give a data set card with `classes`, or "
                "convert a split at a time"
            )


def _mask_task(source: str | Path, split: str) -> str | None:
    """Semantic masks where the data set has some, or instance masks to be painted, else nothing in particular."""
    try:
        open_dataset(source, split, "semantic")
    except DataError:
        return None
    return "semantic"


def _write(datasets: dict[str, Dataset], root: Path, to: str, images: ImageFiles, report: ConversionReport) -> None:
    from vision.data.write_masks import write_coco_semantic, write_masks
    from vision.data.write_objects import write_coco, write_voc, write_yolo

    writer = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo, "masks": write_masks}[to]
    if to == "coco" and not any(dataset.tasks & {"detection", "instance"} for dataset in datasets.values()):
        writer, report.unit = write_coco_semantic, "classes of pixels in panoptic files"
    if to == "masks":
        report.unit = "classes of pixels"
    for split, dataset in datasets.items():
        objects = sum(len(dataset.target(index)) for index in range(len(dataset)))
        report.splits[split] = (len(dataset), objects if report.unit == "objects" else len(dataset.classes))
        flags = dataset.annotations.flags
        without_area = int(((flags & DEGENERATE) > 0).sum())
        if without_area:
            report.losses["object without an area, or outside of its image (`vision check` names them)"] += without_area
        segmented = dataset.annotations.segmented
        if "instance" not in dataset.annotations.tasks and segmented.any() and to != "masks":
            report.losses["instance mask, as other objects have none"] += int(segmented.sum())
        if (flags & STUFF).any() and to != "masks":
            report.losses[f"stuff segment, which {to} cannot express"] += int(((flags & STUFF) > 0).sum())
        if to != "coco" and dataset.classes.ids != tuple(range(len(dataset.classes))):
            report.losses[f"category id (split {split}): {to} numbers classes from 0"] += len(dataset.classes)
        writer(dataset, split, root, images, report.losses)
