"""Masks in image files as they are stored: class numbers, segment ids, colours; a palette's indices, not its colours.

OSError names the file that cannot be read (FileNotFoundError: there is none), ValueError one that holds something else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vision.ops.open_image import open_image

__all__ = ["read_colours", "read_index_mask", "read_segment_ids"]


def read_index_mask(path: str | Path) -> np.ndarray:
    """The class numbers (H, W) of a grey or palette image: uint8, or what the file has for larger ones."""
    pixels, mode = _stored(path)
    if pixels.ndim != 2:
        raise ValueError(
            f"{path}: a mask of mode {mode} with {pixels.shape[2]} channels; expected one channel or a palette whose "
            "values are class numbers"
        )
    if pixels.dtype.kind == "f":
        raise ValueError(f"{path}: a mask of {pixels.dtype} values; expected whole class numbers")
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def read_segment_ids(path: str | Path) -> np.ndarray:
    """The segment ids (H, W) int32 of a COCO panoptic PNG: R + 256 G + 65536 B, 0 = unlabelled."""
    pixels, mode = _stored(path)
    if pixels.ndim != 3 or pixels.shape[2] < 3:
        raise ValueError(f"{path}: a panoptic mask of mode {mode}; expected an RGB PNG (id = R + 256 G + 65536 B)")
    channels = pixels[..., :3].astype(np.int32)
    return channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]


def read_colours(path: str | Path) -> np.ndarray:
    """The colours (H, W) int32 of an image, each as R * 65536 + G * 256 + B; alpha is dropped, palettes are applied."""
    channels = _stored(path, as_colours=True)[0].astype(np.int32)
    return channels[..., 0] * 65536 + channels[..., 1] * 256 + channels[..., 2]


def _stored(path: str | Path, as_colours: bool = False) -> tuple[np.ndarray, str]:
    """Pixel values as stored (or as RGB) and Pillow's name of the mode; OpenCV would turn a palette into colours."""
    from PIL import UnidentifiedImageError

    try:
        with open_image(path) as image:
            return np.array(image.convert("RGB") if as_colours else image), image.mode
    except FileNotFoundError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise OSError(f"{path}: a mask that cannot be read ({error})") from None
