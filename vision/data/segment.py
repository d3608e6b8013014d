"""Object segments in COCO's forms to masks, areas and boxes, through pycocotools (bit for bit its own results).

A segment is compressed RLE counts (bytes) or polygons (list of flat x, y arrays), as `Annotations.segment` returns.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["compressed_counts", "decode_segment", "encode_mask", "encode_segment", "segment_area", "segment_box"]

Segment = bytes | list[np.ndarray] | list[array]


def encode_segment(segment: Segment, size: tuple[int, int]) -> dict[str, Any]:
    """pycocotools' RLE dict of a segment in an image of `size` (height, width); overlapping rings are united."""
    from pycocotools import mask as coco_mask

    if isinstance(segment, bytes):
        return {"size": list(size), "counts": segment}
    return coco_mask.merge(coco_mask.frPyObjects([ring.tolist() for ring in segment], *size))


def decode_segment(segment: Segment, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of a segment."""
    from pycocotools import mask as coco_mask

    return coco_mask.decode(encode_segment(segment, size)).astype(bool)


def encode_mask(mask: np.ndarray) -> bytes:
    """Compressed RLE counts of a mask (H, W) bool."""
    from pycocotools import mask as coco_mask

    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]


def segment_area(segment: Segment, size: tuple[int, int]) -> float:
    """Pixels that the segment covers."""
    from pycocotools import mask as coco_mask

    return float(coco_mask.area(encode_segment(segment, size)))


def segment_box(segment: Segment, size: tuple[int, int]) -> list[float]:
    """The tight box [x, y, width, height] of the mask."""
    from pycocotools import mask as coco_mask

    return coco_mask.toBbox(encode_segment(segment, size)).tolist()


def compressed_counts(segmentation: Any, size: tuple[int, int]) -> bytes:
    """COCO's compressed counts of either RLE form. ValueError when they do not fit an image of `size`."""
    from pycocotools import mask as coco_mask

    if not isinstance(segmentation, Mapping) or "counts" not in segmentation:
        raise ValueError(f"a segmentation of type {type(segmentation).__name__}")
    if tuple(segmentation.get("size", size)) != tuple(size):
        raise ValueError(f"RLE of size {segmentation['size']} in an image of {list(size)}")
    counts, pixels = segmentation["counts"], size[0] * size[1]
    if isinstance(counts, list):
        if any(not isinstance(run, int) or run < 0 for run in counts) or sum(counts) != pixels:
            raise ValueError(f"RLE counts that do not add up to {pixels} pixels")
        return coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]
    counts = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
    if _covered_pixels(counts) != pixels:  # pycocotools would write outside of the mask
        raise ValueError(f"compressed RLE counts that do not add up to {pixels} pixels")
    return counts


def _covered_pixels(counts: bytes) -> int:
    """The sum of the runs of compressed counts (5 bits a byte, low ones first, differences to the run before the
    last); -1 when they are cut or negative."""
    runs: list[int] = []
    value = shift = 0
    for byte in counts:
        digit = byte - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return -1 if shift or any(run < 0 for run in runs) else sum(runs)
