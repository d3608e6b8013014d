"""The folder of a run: whether a new run may have it, and what stays of it when the run fails early."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from vision.engine.find_lr import FILES as FIND_LR_FILES

__all__ = ["check_free", "clear_unless_saved"]

# what a failed run is worth keeping for: its weights, and the batches whose loss was not finite
SAVED = ("last.pt", "best.safetensors", "faults")


def check_free(folder: Path) -> None:
    """ValueError when there is more in `folder` than what `find_lr` has left, which a run may follow."""
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= {*FIND_LR_FILES}):
        raise ValueError(f"{folder} exists and is kept as it is; continue that run with --resume, or give another name")


def clear_unless_saved(folder: Path) -> None:
    """Removes the folder of a run that has saved nothing, except what `find_lr` has left in it."""
    if any((folder / name).exists() for name in SAVED):
        return
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in FIND_LR_FILES:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it is not empty
        folder.rmdir()
