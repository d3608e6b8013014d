"""Data sets: readers, checks and conversion, augmentation, batches. Parts are imported when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Card": "vision.data.card",
    "DataError": "vision.data.problem",
    "Dataset": "vision.data.dataset",
    "Problem": "vision.data.problem",
    "check_dataset": "vision.data.check",
    "image_size": "vision.data.image",
    "open_dataset": "vision.data.source",
    "read_image": "vision.data.image",
}

__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'vision.data' has no attribute {name!r}")
