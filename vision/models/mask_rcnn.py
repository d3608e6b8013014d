"""Mask R-CNN (arXiv:1703.06870): Faster R-CNN on a pyramid with a mask for each box.

The builder's options are those of `build_faster_rcnn`; as torchvision's maskrcnn_resnet50_fpn by default, and as its
version 2 with recipe "v2".
"""

from __future__ import annotations

from functools import partial

from vision.models.faster_rcnn import build_faster_rcnn

__all__ = ["build_mask_rcnn"]

build_mask_rcnn = partial(build_faster_rcnn, masks=True)
