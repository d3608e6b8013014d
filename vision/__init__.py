"""Object detection, instance segmentation and semantic segmentation on PyTorch.

>>> import vision
>>> model = vision.load("runs/blood/best.safetensors")
>>> for result in vision.predict(model, "clip.mp4"):
...     result.detections.boxes

Submodules are imported when first used, so that `import vision` costs next to nothing: torch comes with the first.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "build_model": "vision.models",
    "MODELS": "vision.models",
    "load": "vision.engine.checkpoint",
    "save": "vision.engine.checkpoint",
    "predict": "vision.engine.predict",
    "train": "vision.engine.train",
    "evaluate": "vision.engine.evaluate",
    "export": "vision.engine.export",
    "open_dataset": "vision.data",
    "ClassMap": "vision.structures",
    "Detections": "vision.structures",
    "Segmentation": "vision.structures",
    "Target": "vision.structures",
    "Targets": "vision.structures",
}
_ROOMS = (
    "backbones",
    "data",
    "engine",
    "heads",
    "layers",
    "losses",
    "media",
    "metrics",
    "models",
    "necks",
    "ops",
    "pretrained",
    "structures",
)

__all__ = ["__version__", *_WHERE, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"vision.{name}")
    raise AttributeError(f"module 'vision' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
