"""A model's metrics on a data set: every image once, at the source's resolution, on any number of processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from vision.data.layers import class_layers, learnt_as
from vision.data.loader import worker_options
from vision.engine.evaluation import Evaluation
from vision.engine.files import write_text
from vision.engine.inference import Inference, stack_images
from vision.engine.log import progress_bar
from vision.engine.output import DistinctNames, JsonList, coco_results, output_folder, write_class_map, write_json
from vision.engine.panoptic import PanopticFound, PanopticInference, PanopticWriter, panoptic_truth
from vision.metrics import DetectionOptions, DetectionScore, OutlineOptions, PanopticQuality, SegmentationScore
from vision.metrics.semantic import semantic_metrics, update_semantic
from vision.models import VisionModel
from vision.structures import Detections, Segmentation

__all__ = ["Evaluation", "check_classes", "evaluate"]

Found = Detections | Segmentation | PanopticFound
LOWEST_SCORE = 0.001  # an AP wants the whole precision-recall curve


def check_classes(model: VisionModel, dataset: Any) -> None:
    """ValueError unless the model's classes are the data set's, in the same order."""
    if model.classes.names != dataset.classes.names:
        raise ValueError(
            f"the model knows {len(model.classes)} classes ({_few(model.classes.names)}), the data set {dataset.name} "
            f"has {len(dataset.classes)} ({_few(dataset.classes.names)}); they must be the same, in the same order"
        )


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What `evaluate` was asked for, beside the model, the data and the folder."""

    batch_size: int
    workers: int
    device: str
    precision: str
    tile: int | None
    tta: bool
    crf: bool
    max_detections: int
    iou_threshold: float | None
    protocol: str
    analyse: bool
    boundary: bool
    per_image: bool
    outlines: OutlineOptions | None
    progress: bool
    rank: int
    world: int


def evaluate(
    model: VisionModel, dataset: Any, *, batch_size: int = 16, workers: int = 0, device: str = "auto",
    precision: str = "auto", out: str | Path | None = None, tile: int | None = None, tta: bool = False,
    crf: bool = False, max_detections: int = 100, iou_threshold: float | None = None, protocol: str = "coco",
    analyse: bool = False, boundary: bool = False, per_image: bool = False, outlines: OutlineOptions | None = None,
    progress: bool = True, rank: int = 0, world: int = 1,
) -> Evaluation:  # fmt: skip
    """Runs `model` over `dataset` and returns its metrics; with `out`, writes metrics.json, results.md and predictions.

    Detections go to predictions.json (COCO results), semantic maps to masks/NAME.png, panoptic ones to panoptic.json
    and panoptic/NAME.png: a panoptic model's, where the data set has panoptic annotations. A model of several tasks is
    evaluated in each; `out` has a folder for each. With several processes each takes every `world`-th image and the
    metrics are summed over all of them: nothing is seen twice; every process returns the same result.

    iou_threshold, max_detections, boundary: of detections; tile, tta, crf, per_image (means over images), outlines: of
    semantic maps. protocol, analyse: of detections, as in `DetectionOptions`; of semantic maps, analyse measures
    average precision, outlines and connected regions too. ValueError when the classes differ, the data set lacks what
    the task needs, or an option does not fit the model.
    """
    check_classes(model, dataset)
    if world > 1 and out is not None:
        raise ValueError("evaluate: predictions are written by one process; leave `out` away or run a single process")
    settings = _Settings(
        batch_size=batch_size, workers=workers, device=device, precision=precision, tile=tile, tta=tta, crf=crf,
        max_detections=max_detections, iou_threshold=iou_threshold, protocol=protocol, analyse=analyse,
        boundary=boundary, per_image=per_image, outlines=outlines, progress=progress, rank=rank, world=world,
    )  # fmt: skip
    with contextlib.nullcontext() if out is None else output_folder(out) as folder:
        if not hasattr(model, "views"):
            return _evaluate_task(model, dataset, settings, folder)
        parts = [
            _evaluate_task(view, dataset, _of_task(settings, view.task), folder and folder / view.task)
            for view in model.views()
        ]
    return replace(parts[0], results={kind: result for part in parts for kind, result in part.results.items()})


def _of_task(settings: _Settings, task: str) -> _Settings:
    """The settings for one task of several: what only semantic maps have is left out of the other tasks."""
    if task == "semantic":
        return settings
    return replace(settings, tile=None, tta=False, crf=False, per_image=False, outlines=None)


def _evaluate_task(model: VisionModel, dataset: Any, settings: _Settings, folder: Path | None) -> Evaluation:
    layered = learnt_as(dataset, model.reads) == "multilabel"
    needed = "instance" if layered else model.task if model.task in ("semantic", "instance") else "detection"
    if needed not in dataset.tasks:
        has = ", ".join(sorted(dataset.tasks))
        raise ValueError(f"data set {dataset.name} has no {needed} annotations; it has {has}")
    panoptic = model.task == "panoptic" and "panoptic" in dataset.tasks
    metrics = _metrics(model, settings, layered)
    if panoptic:
        metrics["panoptic"] = PanopticQuality(dataset.classes)
    results = _results(_inference(model, settings, panoptic, layered), dataset, settings)
    if folder is not None:
        folder.mkdir(exist_ok=True)
    with contextlib.nullcontext() if folder is None else _Writer(folder, dataset, model.task) as writer:
        for index, result in results:
            _update(metrics, result, dataset, index)
            if writer is not None:
                writer.add(index, result)
    evaluation = _finish(metrics, model, dataset, settings.world)
    if folder is not None:
        write_json(folder / "metrics.json", evaluation.to_dict())
        write_text(folder / "results.md", evaluation.markdown())
    return evaluation


def _inference(model: VisionModel, settings: _Settings, panoptic: bool, layered: bool) -> Inference:
    options: dict[str, Any] = {}
    if model.task != "semantic":
        options = {"score_threshold": LOWEST_SCORE, "max_detections": settings.max_detections}
        options["iou_threshold"] = settings.iou_threshold  # None: the model's own
    return (PanopticInference if panoptic else Inference)(
        model, device=settings.device, precision=settings.precision, tile=settings.tile, tta=settings.tta,
        crf=settings.crf, scores=settings.analyse or layered, **options,
    )  # fmt: skip


def _metrics(model: VisionModel, settings: _Settings, layered: bool) -> dict[str, Any]:
    if settings.boundary and model.task not in ("instance", "panoptic"):
        raise ValueError(f"evaluate: boundary AP is of instances' masks; this model's task is {model.task!r}")
    if layered:
        if settings.analyse or settings.outlines is not None:
            raise ValueError("evaluate: analyse is of class maps; the classes of this data set's instances may overlap")
        every = {"multi_label": True, "per_image": settings.per_image}
        return {"semantic": SegmentationScore(model.classes, model.classes.ignore, **every)}
    if model.task == "semantic":
        return semantic_metrics(
            model.classes, model.classes.ignore, analyse=settings.analyse, per_image=settings.per_image,
            with_scores=True, outlines=settings.outlines, against_absence=len(model.classes) == 1,
        )  # fmt: skip
    if settings.outlines is not None:
        raise ValueError(f"evaluate: outlines are measured of semantic maps; this model's task is {model.task!r}")
    if settings.per_image:
        raise ValueError(f"evaluate: per_image is of semantic maps; this model's task is {model.task!r}")
    kinds = ["bbox"]
    if model.task in ("instance", "panoptic"):
        kinds += ["segm", "boundary"] if settings.boundary else ["segm"]
    limits = _limits(settings.max_detections)
    return {
        kind: DetectionScore(model.classes, DetectionOptions(kind, settings.protocol, limits, settings.analyse))
        for kind in kinds
    }


def _limits(max_detections: int) -> tuple[int, ...]:
    """COCO's limits of detections, with another largest one: (1, 10, 100), (1, 10, 300), (1, 5), ..."""
    return tuple(sorted({limit for limit in (1, 10) if limit < max_detections} | {max_detections}))


def _update(metrics: dict[str, Any], result: Found, dataset: Any, index: int) -> None:
    if "semantic" in metrics and "semantic" not in dataset.tasks:
        layers = class_layers(dataset.target(index, masks=True), len(dataset.classes))
        found = (result.scores > result.rule.threshold).long()
        metrics["semantic"].update(found[None], torch.from_numpy(layers)[None].to(found))
        return
    if "semantic" in metrics:
        truth = torch.from_numpy(dataset.target(index, semantic=True).semantic).to(result.labels.device)
        update_semantic(metrics, result.labels, truth.long(), result.scores)
        return
    if isinstance(result, PanopticFound):
        metrics["panoptic"].update([result.segments], [panoptic_truth(dataset, index)])
        result = result.detections
    target = dataset.target(index, masks="segm" in metrics)
    for kind, metric in metrics.items():
        if kind != "panoptic":
            metric.update([result], [target])


def _finish(metrics: dict[str, Any], model: VisionModel, dataset: Any, world: int) -> Evaluation:
    if world > 1:
        for metric in metrics.values():
            metric.all_reduce()
    results = {kind: metric.compute() for kind, metric in metrics.items()}
    name = model.arguments.get("name", type(model).__name__)
    return Evaluation(results, {"model": name, "data": dataset.name, "split": dataset.split, "images": len(dataset)})


class _Prepared(TorchDataset):
    """Images as the network takes them, for worker processes: (index, image, placement, source for the CRF alone)."""

    def __init__(self, dataset: Any, indices: range, inference: Inference):
        self.dataset, self.indices = dataset, indices
        self.preprocess, self.with_source = inference.preprocess, inference.crf

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple:
        index = self.indices[position]
        source = self.dataset.image(index)
        image, placement, _ = self.preprocess.apply(source, tight=True)
        return index, image, placement, source if self.with_source else None

    def collate(self, items: list[tuple]) -> tuple:
        indices, images, placements, sources = zip(*items)
        return indices, stack_images(images, self.preprocess.pad), placements, sources


def _results(inference: Inference, dataset: Any, settings: _Settings) -> Iterator[tuple[int, Found]]:
    """(index, result in source pixels) of every image of this process, in order."""
    indices = range(settings.rank, len(dataset), settings.world)
    prepared = _Prepared(dataset, indices, inference)
    loader = DataLoader(prepared, settings.batch_size, collate_fn=prepared.collate, **worker_options(settings.workers))
    shown = settings.progress and settings.rank == 0
    with progress_bar(len(indices), "evaluate", shown, unit="image", leave=False) as bar:
        for batch_indices, images, placements, sources in loader:
            yield from zip(batch_indices, inference.run(images, placements, sources))
            bar.update(len(batch_indices))


class _Writer:
    """Predictions as they come: predictions.json in COCO's results format, panoptic files, or index PNGs in masks/."""

    def __init__(self, folder: Path, dataset: Any, task: str):
        self.dataset, self.task = dataset, task
        self.masks = folder / "masks"
        self.list = None if task == "semantic" else JsonList(folder / "predictions.json")
        self.panoptic: PanopticWriter | None = None
        self.folder = folder
        self._distinct = DistinctNames()
        if task == "semantic":
            self.masks.mkdir()

    def add(self, index: int, result: Found) -> None:
        if isinstance(result, PanopticFound):
            self.panoptic = self.panoptic or PanopticWriter(self.folder, self.dataset)
            self.panoptic.add(index, result.segments)
            result = result.detections
        if self.list is not None:
            self.list.extend(coco_results(result, self.dataset.classes, self.dataset.image_id(index)))
            return
        name = self._distinct(Path(self.dataset.image_path(index)).name).with_suffix(".png")
        write_class_map(self.masks / name, result.labels, self.dataset.classes)

    def __enter__(self) -> _Writer:
        if self.list is not None:
            self.list.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.list is not None:
            self.list.__exit__(*error)
        if self.panoptic is not None:
            self.panoptic.close()
