"""Image files through Pillow, up to the size that OpenCV reads too."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["open_image"]

MOST_PIXELS = 1 << 30  # OpenCV's limit; Pillow's own refuses an aerial image of 14000 pixels a side
_one_at_a_time = threading.Lock()  # the limit is a global of Pillow's


def open_image(path: str | Path) -> PillowImage:
    """`PIL.Image.open`, to be used in `with`. ValueError when the image has over 2**30 pixels."""
    from PIL import Image

    with _one_at_a_time:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    width, height = image.size
    if width * height > MOST_PIXELS:
        image.close()
        raise ValueError(f"{width}x{height} pixels, more than {MOST_PIXELS}")
    return image
