"""Cascade R-CNN (arXiv:1712.00726): three box stages, each trained at a higher overlap on what the last one left.

The builders' options are those of `build_faster_rcnn`. Boxes are class-agnostic, as in the paper. The same sampled
regions pass through all stages and are matched anew before each; masks are trained on the regions of the first stage
and applied to the final boxes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from vision.models.faster_rcnn import build_faster_rcnn

__all__ = ["STAGES", "build_cascade_mask_rcnn", "build_cascade_rcnn"]

STAGES: dict[str, Any] = {
    "stage_ious": (0.5, 0.6, 0.7),
    "box_weights": ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)),
    "stage_loss_weights": (1.0, 0.5, 0.25),
}

build_cascade_rcnn = partial(build_faster_rcnn, stages=STAGES)
build_cascade_mask_rcnn = partial(build_faster_rcnn, stages=STAGES, masks=True)
