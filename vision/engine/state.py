"""The state of a training run in `last.pt`: enough to go on as if nothing had happened, readable without trust."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vision.engine.checkpoint import read_state
from vision.engine.files import write_file

__all__ = ["load_state", "random_state", "restore_random_state", "save_state", "seed_everything"]


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values to `path`, whole or not at all. OSError leaves the previous file as it was."""
    write_file(path, lambda file: torch.save(state, file))


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote. ValueError when it is missing or is something else."""
    if not Path(path).is_file():
        raise ValueError(f"resume: {path} is not there; the run was stopped before its first checkpoint. Start it anew")
    return read_state(path)


def seed_everything(seed: int, *counters: int) -> None:
    """Seeds Python, numpy and torch (all devices) from the seed and counters such as epoch and rank."""
    words = np.random.SeedSequence([seed, *counters]).generate_state(2, np.uint32)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 (libraries that we call use the global one)
    torch.manual_seed(int(words[0]) << 16 ^ int(words[1]))


def random_state() -> dict[str, Any]:
    """The state of the random generators of Python, numpy and torch as tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {
        "python": list(random.getstate()[1]),
        "gauss": random.getstate()[2],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Puts back what `random_state` returned; GPUs that are not there are passed over."""
    random.setstate((3, tuple(state["python"]), state["gauss"]))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
