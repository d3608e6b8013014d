"""Image files to arrays: colour images as they are looked at, masks as they are stored.

Rules: EXIF orientation is applied · grey becomes three equal channels · 16 bits become the upper 8 · alpha is dropped
· a truncated file is an error, though some decoders would fill the rest with grey.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vision.data.problem import DataError
from vision.ops import stored_masks
from vision.ops.open_image import open_image

__all__ = [
    "IMAGE_SUFFIXES", "image_size", "read_colours", "read_image", "read_index_mask", "read_segment_ids",
    "write_as_stored",
]  # fmt: skip

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT = 0x0112, 256, 257  # tags of EXIF and TIFF
_MEND = "replace the file, or take it out of the data set"


def read_image(path: str | Path, *, upright: bool = True) -> np.ndarray:
    """The image as uint8 RGB (H, W, 3), turned as its EXIF orientation says (`upright=False`: as stored).

    DataError (a ValueError) names the file when it is missing, truncated or not an image.
    """
    import cv2

    content = _content(path)
    lacking = _truncation(content)
    if lacking:
        raise DataError(f"{path}: truncated image, {lacking}; {_MEND}")
    flags = cv2.IMREAD_COLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except cv2.error as error:  # of absurd size, for one
        raise DataError(f"{path}: cannot be decoded ({error.err}); {_MEND}") from None
    if image is None:
        raise DataError(f"{path}: {_what(content)} of {len(content)} bytes that cannot be decoded; {_MEND}")
    if image.dtype != np.uint8:
        raise DataError(f"{path}: pixels of type {image.dtype}; expected 8 or 16 bits; convert the file")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def image_size(path: str | Path, *, upright: bool = True) -> tuple[int, int]:
    """Height and width of the image as `read_image` returns it, from the header of the file alone.

    DataError names the file when it is missing or its header is none of an image.
    """
    from PIL import UnidentifiedImageError

    try:
        with open_image(path) as image:
            width, height = image.size
            if image.format == "TIFF":  # some versions of Pillow have turned its size, others not
                width, height = image.tag_v2.get(_TIFF_WIDTH, width), image.tag_v2.get(_TIFF_HEIGHT, height)
            turned = upright and image.getexif().get(_ORIENTATION, 1) >= 5  # 5..8 are turned by 90 degrees
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such image; {_MEND}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not an image that can be read ({error}); {_MEND}") from None
    return (width, height) if turned else (height, width)


def write_as_stored(source: str | Path, target: str | Path) -> None:
    """Writes the image without its EXIF orientation, so that every reader sees the pixels as they are stored.

    Other EXIF data are kept; a JPEG is compressed anew with its own quality.
    """
    with open_image(source) as image:
        pixels, form, exif = image.copy(), image.format, image.getexif()
        keep = {"quality": "keep", "subsampling": "keep"} if form == "JPEG" else {}
        exif[_ORIENTATION] = 1
        (image if keep else pixels).save(target, form, exif=exif, **keep)


def read_index_mask(path: str | Path) -> np.ndarray:
    """`ops.stored_masks.read_index_mask`; DataError when the file is missing, unreadable or holds no class numbers."""
    advice = "convert it, or give the `colours` of the classes in a data set card"
    return _mask(stored_masks.read_index_mask, path, advice)


def read_segment_ids(path: str | Path) -> np.ndarray:
    """`ops.stored_masks.read_segment_ids`; DataError when the file is missing, unreadable or not in colours."""
    return _mask(stored_masks.read_segment_ids, path, "convert it")


def read_colours(path: str | Path) -> np.ndarray:
    """`ops.stored_masks.read_colours`; DataError when the file is missing or unreadable."""
    return _mask(stored_masks.read_colours, path)


def _mask(read: Callable[[str | Path], np.ndarray], path: str | Path, advice: str = "") -> np.ndarray:
    try:
        return read(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such mask; {_MEND}") from None
    except OSError as error:
        raise DataError(f"{error}; {_MEND}") from None
    except ValueError as error:
        raise DataError(f"{error}; {advice}") from None


def _content(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such image; {_MEND}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {_MEND}") from None


def _what(content: bytes) -> str:
    if not content:
        return "an empty file"
    names = {b"\xff\xd8": "a JPEG", b"\x89PNG": "a PNG", b"BM": "a BMP", b"RIFF": "a WebP", b"GIF8": "a GIF"}
    return next((name for start, name in names.items() if content.startswith(start)), "a file of unknown format")


def _truncation(content: bytes) -> str:
    """What the end of a JPEG, PNG, WebP or BMP lacks; empty when it is whole or of another format."""
    if content.startswith(b"\x89PNG"):
        return "" if b"IEND" in content[-4096:] else "its end chunk (IEND) is missing"
    if content.startswith(b"\xff\xd8"):
        # not just anywhere: a thumbnail in the header has an end marker of its own
        return "" if content.rfind(b"\xff\xd9") > _start_of_scan(content) else "its end marker (EOI) is missing"
    for start, place, before in ((b"RIFF", 4, 8), (b"BM", 2, 0)):  # these state their length
        if content.startswith(start) and len(content) >= place + 4:
            length = struct.unpack_from("<I", content, place)[0] + before
            return "" if len(content) >= length else f"{length - len(content)} of {length} bytes are missing"
    return ""


def _start_of_scan(content: bytes) -> int:
    """Where the compressed pixels of a JPEG begin; its length when the header itself is cut or damaged."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xDA:
            return place
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        place += 2 + struct.unpack_from(">H", content, place + 2)[0]
    return len(content)
