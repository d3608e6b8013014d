"""What `predict` can look at: images, folders, globs, videos, cameras, streams, arrays."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vision.data.image import IMAGE_SUFFIXES, read_image
from vision.media.video import VIDEO_SUFFIXES, VideoReader

__all__ = ["Frame", "Source", "find_sources", "frames"]


@dataclass(frozen=True)
class Source:
    """An image or video file, a camera (its number, or the URL of a stream) or an array.

    `name` is relative to the folder that it was found in.
    """

    kind: str  # "image", "video", "camera" or "array"
    place: Path | int | str | np.ndarray
    name: str


@dataclass(frozen=True)
class Frame:
    """One picture to look at: RGB uint8 (H, W, 3), where it came from, and its number within a video."""

    image: np.ndarray
    source: Source
    number: int


def find_sources(sources: object) -> list[Source]:
    """Every picture and video that `sources` names, sorted within each folder and glob; nothing is decoded yet.

    One or several of: a path of an image, a video or a folder (searched with its sub-folders), a glob, a camera
    number, the URL of a stream (rtsp://..., http://...), an RGB array. ValueError names what is missing or of a kind
    that is not known.
    """
    if isinstance(sources, str | Path | int | np.ndarray):
        sources = [sources]
    if not isinstance(sources, Iterable):
        raise ValueError(f"predict: {type(sources).__name__} is no source; give paths, camera numbers or arrays")
    found = [source for one in sources for source in _find(one)]
    if not found:
        raise ValueError("predict: no source was given; give an image, a folder, a glob, a video or a camera number")
    return found


def _find(source: str | Path | int | np.ndarray) -> list[Source]:
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
            raise ValueError(f"predict: an array {source.dtype} {source.shape}; expected RGB uint8 (H, W, 3)")
        return [Source("array", source, "array")]
    if isinstance(source, int) or (str(source).isdigit() and not Path(source).exists()):
        return [Source("camera", int(source), f"camera{source}")]
    if isinstance(source, str) and re.match(r"[a-z][a-z0-9+]*://", source):
        return [Source("camera", source, "stream")]
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES)
        if not found:
            raise ValueError(f"folder {path} holds no image and no video ({', '.join(sorted(IMAGE_SUFFIXES))}, ...)")
        return [_file(p, str(p.relative_to(path))) for p in found]
    if path.is_file():
        return [_file(path, path.name)]
    if glob.has_magic(str(source)):
        found = sorted(Path(p) for p in glob.glob(str(source), recursive=True) if Path(p).is_file())
        if not found:
            raise ValueError(f"nothing matches {source}")
        return [_file(p, p.name) for p in found]
    raise ValueError(f"{source} does not exist; expected an image, a video, a folder, a glob, a camera number or a URL")


def _file(path: Path, name: str) -> Source:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return Source("video", path, name)
    if suffix in IMAGE_SUFFIXES:
        return Source("image", path, name)
    known = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise ValueError(f"{path} is neither an image nor a video by its suffix; known are {known}")


def frames(source: Source) -> Iterator[Frame]:
    """The pictures of one source, decoded one at a time. DataError or VideoError where that cannot be done."""
    if source.kind == "array":
        yield Frame(source.place, source, 0)
    elif source.kind == "image":
        yield Frame(read_image(source.place), source, 0)
    else:
        with VideoReader(source.place) as video:
            for number, image in enumerate(video):
                yield Frame(image, source, number)
