"""Video in and out, one frame at a time, so that memory does not grow with the length."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

__all__ = ["VIDEO_SUFFIXES", "VideoError", "VideoReader", "VideoWriter"]

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
# OpenCV's wheel can encode these everywhere; other containers get the codec of mp4
CODECS = {".avi": "MJPG", ".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v"}

logger = logging.getLogger("vision")


class VideoError(ValueError):
    """A video, camera or stream that cannot be opened, or has no frame that can be decoded."""


class VideoReader:
    """The frames of a video file, of a camera (its number) or of a stream (its URL), RGB uint8 (H, W, 3).

    `rate` in frames a second (25 where the source does not say), `size` (height, width), `count` as the container
    states it, 0 when unknown. VideoError names the source when it cannot be opened or decoded.
    """

    def __init__(self, source: str | Path | int):
        self.source = source
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            what = f"camera {source}" if isinstance(source, int) else f"video {source}"
            raise VideoError(f"{what} cannot be opened; expected a device, a file or a stream that OpenCV can decode")
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        height, width = (self._capture.get(p) for p in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        self.size = (int(height), int(width))
        self.count = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))) if not isinstance(source, int) else 0

    def __iter__(self) -> Iterator[np.ndarray]:
        read = 0
        while True:
            there, frame = self._capture.read()
            if not there:
                break
            read += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if read == 0:
            raise VideoError(f"video {self.source} has no frame that can be decoded")
        if read < self.count:
            logger.warning(
                "video %s: only %d of the %d frames that it states can be read", self.source, read, self.count
            )

    def close(self) -> None:
        self._capture.release()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class VideoWriter:
    """Writes RGB uint8 frames of one size to `path`; the file gets its name when it is closed without an error.

    The codecs want even sides: an odd one is made longer by its last row or column. MPEG-4 cannot express every rate
    (119.927, say): it is rounded then.
    """

    def __init__(self, path: str | Path, rate: float, size: tuple[int, int]):
        self.path = Path(path)
        self._partial = self.path.with_name(f".{self.path.stem}.partial{self.path.suffix}")
        self._size, self._written = size, 0
        code = cv2.VideoWriter_fourcc(*CODECS.get(self.path.suffix.lower(), "mp4v"))
        self._extra = size[0] % 2, size[1] % 2
        shape = (size[1] + self._extra[1], size[0] + self._extra[0])
        for kept in (rate, round(rate, 2), round(rate)):
            self._writer = cv2.VideoWriter(str(self._partial), code, kept, shape)
            if self._writer.isOpened():
                break
        if not self._writer.isOpened():
            raise ValueError(
                f"video {self.path} cannot be written; use one of the suffixes {', '.join(sorted(CODECS))} in a folder "
                "that can be written to"
            )

    def write(self, frame: np.ndarray) -> None:
        if frame.shape[:2] != self._size:
            raise ValueError(f"video {self.path}: a frame of {frame.shape[:2]} pixels; expected {self._size}")
        pixels = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        if any(self._extra):
            bottom, right = self._extra
            pixels = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        self._writer.write(pixels)
        self._written += 1

    def close(self, *, keep: bool = True) -> None:
        """Ends the file, which gets its name if `keep`. OSError when it cannot be read back: OpenCV itself never says
        that the disk is full."""
        self._writer.release()
        if not keep:
            self._partial.unlink(missing_ok=True)
        elif self._written and not _is_whole(self._partial, self._written):
            self._partial.unlink(missing_ok=True)
            raise OSError(f"video {self.path}: {self._written} frames could not be written; is the disk full?")
        else:
            self._partial.replace(self.path)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # a stop by the user leaves what was written so far as a playable file
        self.close(keep=kind is None or kind is KeyboardInterrupt)


def _is_whole(path: Path, frames: int) -> bool:
    """Whether a video file that was just written has a frame that can be read, and as many as were written."""
    capture = cv2.VideoCapture(str(path))
    try:
        return capture.read()[0] and round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) >= frames
    finally:
        capture.release()
