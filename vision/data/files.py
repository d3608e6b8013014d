"""Text files and folders of a data set, read with errors that name the file and what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vision.data.image import IMAGE_SUFFIXES
from vision.data.problem import DataError, Problem

__all__ = ["absolute_path", "image_ids", "images_in", "missing_files", "read_json", "read_lines", "read_yaml"]


def read_json(path: Path) -> Any:
    """The content of a JSON file. DataError when it is missing, not text or not JSON."""
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON ({error}); expected a JSON annotation file") from None
    except RecursionError:
        raise DataError(f"{path}: brackets nested too deeply; expected a JSON annotation file") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. DataError when it is missing, not YAML or not a mapping."""
    import yaml

    try:
        content = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML ({' '.join(str(error).split())}); mend the file") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: {type(content).__name__} at the top; expected `key: value` lines")
    return content


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, without white space around them."""
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def absolute_path(root: Path, name: str | Path) -> str:
    """`name` below `root`, or `name` itself when it is absolute."""
    return os.path.normpath(os.path.join(root, name))


def images_in(folder: Path, recursive: bool = False) -> list[str]:
    """Paths of the image files in `folder` by name. DataError when there is no such folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; expected the images of the data set there")
    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(str(path) for path in found if path.suffix.lower() in IMAGE_SUFFIXES)


def image_ids(paths: list[str]) -> list[str]:
    """File names without suffix; with the folders that they differ in when names repeat."""
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    top = os.path.commonpath(paths)
    return [os.path.splitext(os.path.relpath(path, top))[0].replace(os.sep, "/") for path in paths]


def missing_files(paths: Iterable[str], what: str, origin: str) -> list[Problem]:
    """An error for each path, named in `origin`, that does not exist. Lists folders: asking for each file is slow."""
    listed: dict[str, set[str]] = {}
    problems = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listed[folder]:
            problems.append(Problem("error", origin, "", f"{what} {path} does not exist", "every file that is named"))
    return problems


def _text(path: Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file; expected annotations or a list in UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
