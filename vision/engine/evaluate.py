"""A model's metrics on a data set: every image once, at the source's resolution, on any number of processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from vision.engine.files import write_text
from vision.engine.inference import Inference, stack_images
from vision.engine.output import JsonList, coco_results, output_folder, write_json
from vision.engine.panoptic import PanopticFound, PanopticInference, PanopticWriter, panoptic_truth
from vision.metrics import DetectionOptions, DetectionScore, PanopticQuality
from vision.metrics.semantic import SEMANTIC_TITLES, semantic_metrics, update_semantic
from vision.models import VisionModel
from vision.structures import Detections, Segmentation

__all__ = ["Evaluation", "check_classes", "evaluate"]

Found = Detections | Segmentation | PanopticFound
LOWEST_SCORE = 0.001  # an AP wants the whole precision-recall curve


@dataclass(frozen=True)
class Evaluation:
    """Results by name ("bbox", "segm", "panoptic", ...): what each metric's `compute` returned; and on what."""

    results: dict[str, Any]
    description: dict[str, Any] = field(default_factory=dict)

    @property
    def headline(self) -> tuple[str, float]:
        """The number that models are compared by, and its name: PQ, mIoU, mask AP or box AP; 0 where undefined."""
        kind = next(kind for kind in HEADLINES if kind in self.results)
        name = {"panoptic": "PQ", "semantic": "mIoU"}.get(kind, "AP")
        value = self.results[kind].to_dict()[name]
        return ("mask_AP" if kind == "segm" else name), float(value or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able. One metric stands at the top level, several each under their own name."""
        parts = {kind: result.to_dict() for kind, result in self.results.items()}
        return {**self.description, **(next(iter(parts.values())) if len(parts) == 1 else parts)}

    def table(self) -> str:
        """The tables, overall and per class, for a console."""
        return "\n\n".join(f"{TITLES[kind]}\n{result.table()}" for kind, result in self.results.items())

    def markdown(self) -> str:
        lines = [f"- {name}: {value}" for name, value in self.description.items()]
        parts = [f"## {TITLES[kind]}\n\n{result.table('markdown')}" for kind, result in self.results.items()]
        return "# Evaluation\n\n" + "\n".join(lines) + "\n\n" + "\n\n".join(parts) + "\n"


HEADLINES = ("panoptic", "semantic", "segm", "bbox")
TITLES = {
    "panoptic": "Panoptic segmentation",
    "bbox": "Boxes",
    "segm": "Masks",
    **SEMANTIC_TITLES,
}


def check_classes(model: VisionModel, dataset: Any) -> None:
    """ValueError unless the model's classes are the data set's, in the same order."""
    if model.classes.names != dataset.classes.names:
        raise ValueError(
            f"the model knows {len(model.classes)} classes ({_few(model.classes.names)}), the data set {dataset.name} "
            f"has {len(dataset.classes)} ({_few(dataset.classes.names)}); they must be the same, in the same order"
        )


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def evaluate(
    model: VisionModel,
    dataset: Any,
    *,
    batch_size: int = 16,
    workers: int = 0,
    device: str = "auto",
    precision: str = "auto",
    out: str | Path | None = None,
    tile: int | None = None,
    tta: bool = False,
    crf: bool = False,
    max_detections: int = 100,
    iou_threshold: float | None = None,
    protocol: str = "coco",
    analyse: bool = False,
    boundary: bool = False,
    per_image: bool = False,
    progress: bool = True,
    rank: int = 0,
    world: int = 1,
) -> Evaluation:
    """Runs `model` over `dataset` and returns its metrics; with `out`, writes metrics.json, results.md and predictions.

    Detections go to predictions.json (COCO results), semantic maps to masks/NAME.png, panoptic ones to panoptic.json
    and panoptic/NAME.png: a panoptic model's, where the data set has panoptic annotations. With several processes each
    takes every `world`-th image and the metrics are summed over all of them: nothing is seen twice; every process
    returns the same result. protocol, analyse: of detections, as in `DetectionOptions`; of semantic maps, analyse
    measures average precision, outlines and connected regions too, and per_image takes means over images. ValueError
    when the classes differ or the data set lacks what the task needs.
    """
    check_classes(model, dataset)
    if hasattr(model, "views"):
        return _evaluate_tasks(
            model, dataset, out, batch_size=batch_size, workers=workers, device=device, precision=precision,
            max_detections=max_detections, protocol=protocol, analyse=analyse, progress=progress, rank=rank,
            world=world, per_image=per_image,
        )  # fmt: skip
    needed = "semantic" if model.task == "semantic" else "instance" if model.task == "instance" else "detection"
    if needed not in dataset.tasks:
        raise ValueError(
            f"data set {dataset.name} has no {needed} annotations; it has {', '.join(sorted(dataset.tasks))}"
        )
    options = {} if model.task == "semantic" else {"score_threshold": LOWEST_SCORE, "max_detections": max_detections}
    if iou_threshold is not None and model.task != "semantic":
        options["iou_threshold"] = iou_threshold
    panoptic = model.task == "panoptic" and "panoptic" in dataset.tasks
    kind = PanopticInference if panoptic else Inference
    inference = kind(model, device=device, precision=precision, tile=tile, tta=tta, crf=crf, **options)
    limits = _limits(max_detections)
    detection = DetectionOptions(protocol=protocol, analyse=analyse, max_detections=limits)
    metrics = _metrics(model, detection, boundary, per_image)
    if panoptic:
        metrics["panoptic"] = PanopticQuality(dataset.classes)
    results = _results(
        inference, dataset, range(rank, len(dataset), world), batch_size, workers, progress and rank == 0
    )
    if out is None:
        for index, result in results:
            _update(metrics, result, dataset, index)
        return _finish(metrics, model, dataset, world)
    if world > 1:
        raise ValueError("evaluate: predictions are written by one process; leave `out` away or run a single process")
    with output_folder(out) as folder:
        with _Writer(folder, dataset, model.task) as writer:
            for index, result in results:
                _update(metrics, result, dataset, index)
                writer.add(index, result)
        evaluation = _finish(metrics, model, dataset, world)
        write_json(folder / "metrics.json", evaluation.to_dict())
        write_text(folder / "results.md", evaluation.markdown())
    return evaluation


def _evaluate_tasks(model: Any, dataset: Any, out: str | Path | None, **options: Any) -> Evaluation:
    """The evaluations of a model of several tasks, each by itself, under one roof; folder `out` has one a task."""
    with contextlib.nullcontext() if out is None else output_folder(out) as folder:
        parts = [
            evaluate(view, dataset, out=None if folder is None else folder / view.task, **options)
            for view in model.views()
        ]
    return replace(parts[0], results={kind: result for part in parts for kind, result in part.results.items()})


def _metrics(model: VisionModel, options: DetectionOptions, boundary: bool, per_image: bool) -> dict[str, Any]:
    if model.task == "semantic":
        ignore = 255 if len(model.classes) <= 255 else -1
        return semantic_metrics(model.classes, ignore, analyse=options.analyse, per_image=per_image, with_scores=True)
    kinds = ["bbox"]
    if model.task in ("instance", "panoptic"):
        kinds += ["segm", "boundary"] if boundary else ["segm"]
    return {kind: DetectionScore(model.classes, replace(options, kind=kind)) for kind in kinds}


def _limits(max_detections: int) -> tuple[int, ...]:
    """COCO's limits of detections, with another largest one: (1, 10, 100), (1, 10, 300), (1, 5), ..."""
    return tuple(sorted({limit for limit in (1, 10) if limit < max_detections} | {max_detections}))


def _update(metrics: dict[str, Any], result: Found, dataset: Any, index: int) -> None:
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
    """Images as the network takes them, for worker processes: (index, image, placement)."""

    def __init__(self, dataset: Any, indices: range, inference: Inference):
        self.dataset, self.indices, self.preprocess = dataset, indices, inference.preprocess

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple:
        index = self.indices[position]
        image, placement, _ = self.preprocess.apply(self.dataset.image(index), tight=True)
        return index, image, placement

    def collate(self, items: list[tuple]) -> tuple:
        return (
            [index for index, _, _ in items],
            stack_images([image for _, image, _ in items], self.preprocess.pad),
            [placement for _, _, placement in items],
        )


def _results(
    inference: Inference, dataset: Any, indices: range, batch_size: int, workers: int, progress: bool
) -> Iterator[tuple[int, Found]]:
    """(index, result in source pixels) of every image, in order."""
    from tqdm import tqdm

    prepared = _Prepared(dataset, indices, inference)
    loader = DataLoader(prepared, batch_size, num_workers=workers, collate_fn=prepared.collate)
    with tqdm(total=len(indices), unit="image", desc="evaluate", disable=not progress, leave=False) as bar:
        for batch_indices, images, placements in loader:
            yield from zip(batch_indices, inference.run(images, placements))
            bar.update(len(batch_indices))


class _Writer:
    """Predictions as they come: predictions.json in COCO's results format, panoptic files, or index PNGs in masks/."""

    def __init__(self, folder: Path, dataset: Any, task: str):
        self.dataset, self.task = dataset, task
        self.masks = folder / "masks"
        self.list = None if task == "semantic" else JsonList(folder / "predictions.json")
        self.panoptic: PanopticWriter | None = None
        self.folder = folder
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
        labels = result.labels.cpu().numpy()
        path = self.masks / f"{Path(self.dataset.image_path(index)).stem}.png"
        if not cv2.imwrite(str(path), labels.astype("uint8" if labels.max(initial=0) < 256 else "uint16")):
            raise OSError(f"could not write {path}")

    def __enter__(self) -> _Writer:
        if self.list is not None:
            self.list.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.list is not None:
            self.list.__exit__(*error)
        if self.panoptic is not None:
            self.panoptic.close()
