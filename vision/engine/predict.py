"""A model's view of images and video: a generator for Python, and pictures, video and JSON in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vision.data.problem import DataError
from vision.engine.inference import Inference, JointInference
from vision.engine.log import logger, progress_bar
from vision.engine.output import DistinctNames, output_folder, write_image
from vision.engine.panoptic import PanopticFound, PanopticInference
from vision.engine.prediction_files import PredictionFiles
from vision.engine.sources import Frame, Source, find_sources, frames
from vision.engine.threads import Behind, ahead
from vision.media.draw import draw_detections, draw_segmentation
from vision.media.video import VideoError, VideoReader, VideoWriter
from vision.metrics import PanopticMap
from vision.models import VisionModel
from vision.structures import ClassMap, Detections, Segmentation

__all__ = ["Prediction", "predict", "predict_to_folder"]

SCORE = 0.3  # what is shown to people; evaluation goes lower
UNREADABLE = (DataError, VideoError)


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture: `detections`, `segmentation`, or both (panoptic and multi-task models), in its
    own pixels. Of a panoptic model `panoptic` are the segments, and the segmentation says their classes.

    image RGB uint8 (H, W, 3) · source: the path, camera number or "array" · frame: number within a video, else 0.
    """

    image: np.ndarray
    source: str
    frame: int
    classes: ClassMap
    detections: Detections | None = None
    segmentation: Segmentation | None = None
    panoptic: PanopticMap | None = None

    def draw(self) -> np.ndarray:
        """The picture under the colours of its classes, and with boxes, masks and names, RGB uint8 (H, W, 3)."""
        if self.segmentation is None:
            return draw_detections(self.image, self.detections, self.classes)
        drawn = draw_segmentation(self.image, self.segmentation, self.classes)
        if self.detections is None:
            return drawn
        return draw_detections(drawn, replace(self.detections, masks=None), self.classes)  # the colours are there


def predict(
    model: VisionModel,
    sources: Any,
    *,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    max_detections: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    tile: int | None = None,
    tta: bool = False,
    crf: bool = False,
    scores: bool = False,
) -> Iterator[Prediction]:
    """Yields a Prediction for every image and every frame of `sources`, one at a time: memory does not grow.

    `sources`: an image, a folder, a glob, a video, a camera number, the URL of a stream, an RGB array, or a list of
    these. The images are prepared as in the model's training. `score_threshold`: the lowest score of what is returned,
    0.3 unless given; of binary and multi-label segmenters the lowest probability of a class, 0.5. `scores`: a
    segmentation has its class probabilities too, as that of a multi-label model always has (`Segmentation.layers`: the
    pixels of each class).
    ValueError names a source that is missing or, where it is the only one, cannot be decoded; of several such a one is
    passed over with a warning.
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
        scores=scores,
    )
    return (_predict_one(inference, frame) for frame in _readable_frames(find_sources(sources)))


def _readable_frames(sources: Sequence[Source]) -> Iterator[Frame]:
    for source in sources:
        try:
            yield from frames(source)
        except UNREADABLE as error:
            _pass_over(error, sources)


def _pass_over(error: Exception, sources: Sequence[Source]) -> None:
    """Warns that one of several sources is left out; raises where it is the only one."""
    if len(sources) == 1:
        raise error
    logger.warning("%s; passed over", error)


def _inference(
    model: VisionModel,
    *,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    max_detections: int | None = None,
    **options: Any,
) -> Inference:
    """`options` are those of Inference itself: device, precision, tile, tta, crf, scores."""
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise ValueError(f"predict: score threshold {score_threshold}; expected a number in 0..1")
    if options.get("scores") and model.task != "semantic":
        raise ValueError(f"scores: maps of class scores are of semantic segmentation; this is {model.task}")
    if model.task == "semantic":
        options["scores"] = options.get("scores") or model.reads == "multilabel"  # its labels say but half of it
        return Inference(model, **options, score_threshold=score_threshold)
    score_threshold = SCORE if score_threshold is None else score_threshold
    decoding = {"score_threshold": score_threshold, "iou_threshold": iou_threshold, "max_detections": max_detections}
    kind = Inference
    if model.task == "panoptic":
        kind = PanopticInference if hasattr(model, "decode_panoptic") else JointInference
    return kind(model, **options, **decoding)


def _predict_one(inference: Inference, frame: Frame) -> Prediction:
    (result,) = inference([frame.image])
    source = frame.source
    place = "array" if source.kind == "array" else str(source.place)
    if isinstance(result, PanopticFound):
        pixels = _classes_of(result.segments, inference.classes)
        found = {"detections": result.detections, "segmentation": pixels, "panoptic": result.segments}
    elif isinstance(result, tuple):
        found = dict(zip(("detections", "segmentation"), result))
    else:
        found = {"segmentation" if isinstance(result, Segmentation) else "detections": result}
    return Prediction(frame.image, place, frame.number, inference.classes, **found)


def _classes_of(segments: PanopticMap, classes: ClassMap) -> Segmentation:
    """The class of each pixel of a panoptic map."""
    labels = torch.full_like(segments.ids, classes.ignore, dtype=torch.int64)
    for number, label in zip(segments.segment_ids, segments.labels):
        labels = label.where(segments.ids == number, labels)
    return Segmentation(labels)


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
    """Runs `predict` (same `options`) and writes the folder `out`; returns how many images, frames (and objects), and
    how many sources were `unreadable`, if any.

    Annotated pictures keep their names, videos their frame rate and size (`VideoWriter`). Detections also go to
    predictions.json (COCO's results format plus `file_name` and `frame`), of single images the class maps to
    masks/NAME.png (see `write_class_map`), of multi-label models each class to layers/NAME/CLASS.png too, panoptic ones
    to panoptic.json and panoptic/NAME.png and, with `scores`, class probabilities (C, H, W) in half precision to
    scores/NAME.npy; ValueError where there is a video then. Pictures in a folder of such a name go to NAME_pictures/.
    `max_frames` ends each video or camera after that many frames. The folder appears when all is done, or at Ctrl-C.
    """
    found = find_sources(sources)
    inference = _inference(model, scores=scores, **options)
    moving = [source.name for source in found if source.kind in ("video", "camera")]
    if scores and moving:
        raise ValueError(f"scores: {moving[0]} is a video; class probabilities are written of images: give its frames")
    counts = {"images": 0, "frames": 0}
    shown = progress and len(found) > 1
    with output_folder(out) as folder, PredictionFiles(folder, inference, scores) as results, Behind() as later:

        def write(name: str, prediction: Prediction) -> None:
            write_image(folder / name, prediction.draw())
            results.add(prediction, name, alone=True)

        def pass_over(error: Exception) -> None:
            _pass_over(error, found)
            counts["unreadable"] = counts.get("unreadable", 0) + 1

        with contextlib.closing(ahead(_with_still_images(found))) as named:
            bar = progress_bar(len(found), "predict", shown, unit="source", leave=False, items=named)
            for name, source, frame in bar:
                if isinstance(frame, Frame):
                    later(write, name, _predict_one(inference, frame))
                    counts["images"] += 1
                elif frame is not None:
                    pass_over(frame)
                else:
                    later.wait()
                    video = (inference, source, folder, name, results, max_frames, progress)
                    try:
                        counts["frames"] += _predict_video(*video)
                    except UNREADABLE as error:
                        pass_over(error)
    return counts | results.counts


def _with_still_images(sources: Sequence[Source]) -> Iterator[tuple[str, Source, Frame | Exception | None]]:
    """The name in the output and the source of each; the picture of those that are one, or why it cannot be decoded,
    None of those that move."""
    for name, source in zip(_distinct_names(sources), sources):
        try:
            yield name, source, next(frames(source)) if source.kind in ("image", "array") else None
        except UNREADABLE as error:
            yield name, source, error


def _predict_video(
    inference: Inference, source: Source, folder: Path, name: str, results: PredictionFiles, max_frames: int | None,
    progress: bool,
) -> int:  # fmt: skip
    """Writes one annotated video, `name` in `folder`; how many frames it has."""
    seen, path = 0, folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoReader(source.place) as video, VideoWriter(path, video.rate, video.size) as writer, Behind() as later:

        def write(prediction: Prediction) -> None:
            writer.write(prediction.draw())
            results.add(prediction, name, alone=False)

        # of a camera the newest picture is wanted: only one waits
        with contextlib.closing(ahead(video, 1) if source.kind == "camera" else ahead(video)) as images:
            bar = progress_bar(video.count, source.name, progress, unit="frame", leave=False, items=images)
            for number, image in enumerate(bar):
                if max_frames is not None and number >= max_frames:
                    break
                later(write, _predict_one(inference, Frame(image, source, number)))
                seen += 1
    return seen


def _distinct_names(sources: Iterable[Source]) -> list[str]:
    """One output name a source, sub-folders included; none in the folders that results go to."""
    names: list[str] = []
    distinct = DistinctNames()
    for source in sources:
        path = Path(source.name)
        if source.kind == "camera" or (
            source.kind == "video" and path.suffix.lower() not in (".mp4", ".avi", ".mkv", ".mov")
        ):
            path = path.with_suffix(".mp4")
        elif source.kind == "array" or path.suffix.lower() == ".pgm":  # which holds no colours
            path = path.with_suffix(".png")
        if len(path.parts) > 1 and path.parts[0] in PredictionFiles.folders:
            path = Path(f"{path.parts[0]}_pictures", *path.parts[1:])
        names.append(str(distinct(path)))
    return names
