"""A model's view of images and video: a generator for Python, and pictures, video and JSON in a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vision.engine.inference import Inference
from vision.engine.output import JsonList, coco_results, output_folder
from vision.engine.sources import Frame, Source, find_sources, frames
from vision.media.draw import draw_detections, draw_segmentation
from vision.media.video import VideoReader, VideoWriter
from vision.models import VisionModel
from vision.structures import ClassMap, Detections, Segmentation

__all__ = ["Prediction", "predict", "predict_to_folder"]

SCORE = 0.3  # what is shown to people; evaluation goes lower


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture: `detections` or `segmentation`, in its own pixels.

    image RGB uint8 (H, W, 3) · source: the path, camera number or "array" · frame: number within a video, else 0.
    """

    image: np.ndarray
    source: str
    frame: int
    classes: ClassMap
    detections: Detections | None = None
    segmentation: Segmentation | None = None

    def draw(self) -> np.ndarray:
        """The picture with boxes, masks and names, or with the colours of its classes, RGB uint8 (H, W, 3)."""
        if self.detections is not None:
            return draw_detections(self.image, self.detections, self.classes)
        return draw_segmentation(self.image, self.segmentation, self.classes)


def predict(
    model: VisionModel,
    sources: Any,
    *,
    score_threshold: float = SCORE,
    iou_threshold: float | None = None,
    max_detections: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    tile: int | None = None,
    tta: bool = False,
    crf: bool = False,
) -> Iterator[Prediction]:
    """Yields a Prediction for every image and every frame of `sources`, one at a time: memory does not grow.

    `sources`: an image, a folder, a glob, a video, a camera number, an RGB array, or a list of these. The images are
    prepared as in the model's training. ValueError names a source that is missing or cannot be decoded.
    """
    inference = _inference(
        model,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        device=device,
        precision=precision,
        tile=tile,
        tta=tta,
        crf=crf,
    )
    return (_predict_one(inference, frame) for source in find_sources(sources) for frame in frames(source))


def _inference(
    model: VisionModel,
    *,
    score_threshold: float = SCORE,
    iou_threshold: float | None = None,
    max_detections: int | None = None,
    **options: Any,
) -> Inference:
    """`options` are those of Inference itself: device, precision, tile, tta, crf."""
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"predict: score threshold {score_threshold}; expected a number in 0..1")
    decoding = {"score_threshold": score_threshold, "iou_threshold": iou_threshold, "max_detections": max_detections}
    return Inference(model, **options, **({} if model.task == "semantic" else decoding))


def _predict_one(inference: Inference, frame: Frame) -> Prediction:
    (result,) = inference([frame.image])
    source = frame.source
    place = "array" if source.kind == "array" else str(source.place)
    kind = "segmentation" if isinstance(result, Segmentation) else "detections"
    return Prediction(frame.image, place, frame.number, inference.classes, **{kind: result})


def predict_to_folder(
    model: VisionModel,
    sources: Any,
    out: str | Path,
    *,
    max_frames: int | None = None,
    progress: bool = True,
    scores: bool = False,
    **options: Any,
) -> dict[str, int]:
    """Runs `predict` (same `options`) and writes the folder `out`; returns how many images, frames (and objects).

    Annotated pictures keep their names, videos their frame rate and size. Detections also go to predictions.json
    (COCO's results format plus `file_name` and `frame`), the class maps of single images to masks/NAME.png and, with
    `scores`, their class probabilities (C, H, W) in half precision to scores/NAME.npy.
    `max_frames` ends each video or camera after that many frames. The folder appears when all is done, or at Ctrl-C.
    """
    from tqdm import tqdm

    found = find_sources(sources)
    inference = _inference(model, **options)
    if scores and inference.task != "semantic":
        raise ValueError(f"scores: maps of class scores are of semantic segmentation; this is {inference.task}")
    counts = {"images": 0, "frames": 0}
    shown = progress and len(found) > 1
    with output_folder(out) as folder, _Results(folder, inference, scores) as results:
        named = zip(_distinct_names(found), found)
        for name, source in tqdm(named, total=len(found), unit="source", disable=not shown, leave=False):
            if source.kind in ("image", "array"):
                (frame,) = frames(source)
                prediction = _predict_one(inference, frame)
                _write_image(folder / name, prediction.draw())
                results.add(prediction, name)
                counts["images"] += 1
            else:
                counts["frames"] += _predict_video(inference, source, folder / name, results, max_frames, progress)
    return counts | results.counts


def _predict_video(
    inference: Inference, source: Source, path: Path, results: _Results, max_frames: int | None, progress: bool
) -> int:
    """Writes one annotated video; how many frames it has."""
    from tqdm import tqdm

    place = source.place if source.kind == "camera" else str(source.place)
    seen = 0
    with VideoReader(place) as video, VideoWriter(path, video.rate, video.size) as writer:
        bar = tqdm(video, total=video.count or None, unit="frame", desc=source.name, disable=not progress, leave=False)
        for number, image in enumerate(bar):
            if max_frames is not None and number >= max_frames:
                break
            prediction = _predict_one(inference, Frame(image, source, number))
            writer.write(prediction.draw())
            results.add(prediction, path.name)
            seen += 1
    return seen


def _distinct_names(sources: Iterable[Source]) -> list[str]:
    """One output name a source, sub-folders included; what would collide gets a number."""
    names: list[str] = []
    taken: set[str] = set()
    for source in sources:
        path = Path(source.name)
        if source.kind == "camera" or (
            source.kind == "video" and path.suffix.lower() not in (".mp4", ".avi", ".mkv", ".mov")
        ):
            path = path.with_suffix(".mp4")
        elif source.kind == "array":
            path = path.with_suffix(".png")
        name, number = str(path), 2
        while name in taken:
            name, number = str(path.with_name(f"{path.stem}_{number}{path.suffix}")), number + 1
        taken.add(name)
        names.append(name)
    return names


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    if not cv2.imwrite(str(path), pixels):
        raise OSError(f"could not write {path}")


class _Results:
    """What goes beside the pictures: predictions.json for detections, masks/ (and scores/) for class maps."""

    def __init__(self, folder: Path, inference: Inference, scores: bool):
        self.masks = folder / "masks"
        self.scores = folder / "scores" if scores else None
        self.list = None if inference.task == "semantic" else JsonList(folder / "predictions.json")
        self.counts = {} if self.list is None else {"objects": 0}

    def add(self, prediction: Prediction, name: str) -> None:
        if self.list is not None:
            self.counts["objects"] += len(prediction.detections)
            named = {"file_name": name, "frame": prediction.frame}
            self.list.extend(coco_results(prediction.detections, prediction.classes, name, **named))
        elif Path(name).suffix.lower() not in (".mp4", ".avi", ".mkv", ".mov"):
            labels = prediction.segmentation.labels.cpu().numpy()
            _write_image((self.masks / name).with_suffix(".png"), labels.astype(np.uint8))
            if self.scores is not None:
                path = (self.scores / name).with_suffix(".npy")
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, prediction.segmentation.scores.half().cpu().numpy())

    def __enter__(self) -> _Results:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.list is not None:
            self.list.__exit__(*error)
