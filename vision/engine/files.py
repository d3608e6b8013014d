"""Files that are whole or absent: written beside their place, synced, then renamed over it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

__all__ = ["write_file", "write_text"]


def write_file(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Calls `write` with an open binary file and puts the result at `path` in one step.

    A reader sees the old file or the new one, never a part, whenever the process is killed. OSError says that the
    previous file is untouched when the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            write(file)
            _sync(file)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into a RuntimeError
        with contextlib.suppress(OSError):
            partial.unlink()
        kept = "; the previous file is untouched" if path.exists() else ""
        reason = getattr(error, "strerror", None) or error
        missing = isinstance(error, FileNotFoundError)
        advice = "Make the folder first" if missing else "Free some space or choose another folder"
        raise OSError(f"could not write {path}: {reason}{kept}. {advice}") from error
    _sync_folder(path.parent)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems have no way to sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """`text` as UTF-8 at `path`, whole or not at all."""
    write_file(path, lambda file: file.write(text.encode()))
