"""Data sets: readers, checks and conversion, augmentation, batches. Parts are imported when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "AugmentConfig": "vision.data.augment_config",
    "Card": "vision.data.card",
    "DataError": "vision.data.problem",
    "Dataset": "vision.data.dataset",
    "Preprocess": "vision.data.resize",
    "Problem": "vision.data.problem",
    "build_augmentation": "vision.data.transforms",
    "build_loader": "vision.data.loader",
    "check_dataset": "vision.data.check",
    "default_augmentation": "vision.data.augment_config",
    "image_size": "vision.data.image",
    "open_dataset": "vision.data.source",
    "read_image": "vision.data.image",
}

__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'vision.data' has no attribute {name!r}")
