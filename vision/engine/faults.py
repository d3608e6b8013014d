"""What happens when a loss is not a number: the batch is kept, its images are named, the step is skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vision.engine.log import logger
from vision.engine.state import save_state
from vision.engine.verdict import put_back_if
from vision.structures import Batch

__all__ = ["FaultGuard", "NonFiniteLoss"]

MOST_IN_A_ROW = 5


class NonFiniteLoss(RuntimeError):
    """The loss was not finite too many times in a row."""


class FaultGuard:
    """Keeps and names what made a loss not finite; puts back running statistics that a bad batch may have spoilt."""

    def __init__(self, model: nn.Module, folder: Path):
        self.folder = Path(folder)
        self.in_a_row = 0
        self._buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self._good = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def remember(self) -> None:
        """Keeps the running statistics as they are before a step."""
        if self._buffers:
            torch._foreach_copy_(self._good, self._buffers)

    def put_back(self, bad: Tensor) -> None:
        """The running statistics as they were before the step, where `bad` (a 0-dim flag) is true."""
        if self._buffers:
            put_back_if(bad, self._buffers, self._good)

    def report(self, step: int, batches: list[Batch], losses: dict[str, Tensor], rank: int = 0) -> None:
        """Saves the batches and names their images; NonFiniteLoss after five."""
        self.in_a_row += 1
        images = [image for batch in batches for image in batch.image_ids]
        path = self.folder / "faults" / f"step{step:07d}_rank{rank}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_state(path, {"batches": [_as_dict(batch) for batch in batches], "losses": dict(losses)})
        named = ", ".join(f"{name} {float(value):.4g}" for name, value in losses.items())
        text = (
            f"step {step}: the loss is not finite ({named}) "
            f"on images {', '.join(map(str, images))}; the step is skipped, the batch is in {path}"
        )
        logger.warning(text)
        if self.in_a_row >= MOST_IN_A_ROW:
            raise NonFiniteLoss(
                f"stopped: the loss was not finite {self.in_a_row} times in a row. {text}. Look at these images and "
                "their annotations, lower --optim.lr, or use --precision fp32"
            )


def _as_dict(batch: Batch) -> dict[str, Any]:
    targets = batch.targets
    fields = {} if targets is None else {name: getattr(targets, name) for name in type(targets).__dataclass_fields__}
    return {"images": batch.images, "sizes": batch.sizes, "image_ids": batch.image_ids, "targets": fields}
