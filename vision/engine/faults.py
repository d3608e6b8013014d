"""What happens when a loss is not a number: the batch is kept, its images are named, the step is skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vision.engine.log import logger
from vision.engine.state import save_state
from vision.structures import Batch

__all__ = ["FaultGuard", "NonFiniteLoss", "agreed"]

MOST_IN_A_ROW = 5


class NonFiniteLoss(RuntimeError):
    """The loss was not finite too many times in a row."""


@torch.no_grad()
def agreed(*flags: Tensor | bool, device: torch.device) -> list[bool]:
    """Each flag, true when it is true on any process, so that all of them do the same.

    The one deliberate host sync of a step.
    """
    values = torch.stack([torch.as_tensor(flag, device=device).float().reshape(()) for flag in flags])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
    return [value > 0 for value in values.tolist()]


class FaultGuard:
    """Keeps and names what made a loss not finite.

    Running statistics that a bad batch may have spoilt are put back to what they were at the last `remember`.
    """

    def __init__(self, model: nn.Module, folder: Path):
        self.folder = Path(folder)
        self.in_a_row = 0
        self._buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self._good: list[Tensor] = []
        self.remember()

    @torch.no_grad()
    def remember(self) -> None:
        """Keeps the running statistics as they are now."""
        if not self._good:
            self._good = [buffer.clone() for buffer in self._buffers]
        else:
            torch._foreach_copy_(self._good, self._buffers)

    def report(self, step: int, batches: list[Batch], losses: dict[str, Tensor], rank: int = 0) -> None:
        """Saves the batches, names their images and puts the running statistics back; NonFiniteLoss after five."""
        self.in_a_row += 1
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._good)
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
