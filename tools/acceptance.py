"""Trains from scratch on small real data sets within a budget of CPU seconds and prints what each run reached.

    python tools/acceptance.py --data FOLDER --out runs/acceptance [bccd camvid_unet ...] [--seeds 3] [--scale 1.7]

The runs named peer_* train models of other libraries in the same loop, with the same budget and the library's default
recipe. FOLDER holds bccd/ (VOC layout), camvid/, membrane/ and coco256/ (COCO layout). Budgets are user-CPU seconds of
training, all cores added up; `--scale` multiplies them. Every box AP is computed once more by pycocotools from the
predictions.json that the evaluation wrote, and has to agree to 1e-6.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peers

import vision
from vision.engine.evaluate import Evaluation, evaluate
from vision.engine.train import train

SCRATCH = {"validate_every": 10_000}  # validate once, at the end


@dataclass(frozen=True)
class Run:
    """One acceptance run: data set folder, settings of `train`, and by metric the value that is asked for."""

    data: str
    settings: dict[str, Any]
    wanted: dict[str, float] = field(default_factory=dict)


BCCD = {"AP": 0.59, "AP50": 0.88, "Platelets AP": 0.38}
CAMVID = {"mIoU": 0.47, "classes above 0": 11}
STREET = {"mIoU": 0.0, "classes above 0": 11}
CELLS = ("RBC", "WBC", "Platelets")


# most steps on fewer and smaller images, so that there are many of them; the end of the run sees full-size ones
SMALL_STEPS = {"batch_size": 8, "multi_scale": (0.6, 0.85)}


def cells(asked: float, model: str, options: dict[str, Any], lr: float = 0.002) -> Run:
    """A detector on BCCD with 720 CPU seconds, and the AP that is asked for; each class has to be found at all."""
    every = {f"{name} AP": 0.001 for name in CELLS}
    settings = {"recipe": "bccd", "model": model, "model_options": options, "cpu_seconds": 720, **SMALL_STEPS}
    settings["optim"] = {"name": "adamw", "lr": lr}
    return Run("bccd", settings, {"AP": asked, "AP50": 0.0, **every})


def peer_cells(model: str, **settings: Any) -> Run:
    """A detector of torchvision on the same data, with the same seconds; without settings, the recipe of detectors."""
    return Run("bccd", {"model": model, "image_size": 320, "cpu_seconds": 720, **settings}, {"AP": 0.0, "AP50": 0.0})


def street(model: str, options: dict[str, Any]) -> Run:
    """A segmenter on CamVid; its peer is the aim."""
    settings = {"recipe": "camvid_short", "model": model, "model_options": options, "cpu_seconds": 600}
    return Run("camvid", settings, STREET)


def peer_street(model: str = "peer_smp", **options: str) -> Run:
    """A segmenter of another library on the same data, with the same seconds; `options` of its builder in `peers`."""
    settings = {"model": model, "model_options": options, "image_size": (240, 320), "cpu_seconds": 600}
    return Run("camvid", settings, dict.fromkeys(STREET, 0.0))


def membrane(loss: dict[str, Any]) -> Run:
    """U-Net on membranes with a loss; distances in pixels of the images, means over images."""
    measured = ("hd95", "hausdorff", "assd", "boundary_iou")
    wanted = {"cell dice": 0.95, "membrane dice": 0.80, **{f"cell {name}": 0.0 for name in measured}}
    return Run("membrane", {"recipe": "membrane", "loss": loss, "cpu_seconds": 150}, wanted)


def shared(model: str, options: dict[str, Any]) -> Run:
    """Detection, semantic segmentation or both on coco256 with the same backbone, heads and seconds."""
    small = {"backbone_options": HALF, "width": 64, **({} if model == "semantic_fpn" else {"depth": 2})}
    backbone = {"backbone": "resnet18"} if model == "multi_task" else {}
    settings = {"model": model, "model_options": {**backbone, **small, **options}, "cpu_seconds": 200}
    figures = {"multi_task": ("AP50", "mIoU", "pixel_accuracy"), "semantic_fpn": ("mIoU", "pixel_accuracy")}
    return Run(
        "coco256",
        {**settings, "image_size": 192, "batch_size": 8, "recipe": "multi_task"},
        dict.fromkeys(figures.get(model, ("AP50",)), 0.0),
    )


HALF = {"width": 0.5}
REGION = {"cross_entropy": 1.0, "dice": 1.0}
NARROW = {"backbone": "resnet18", "backbone_options": HALF}
OURS = ("bccd", "camvid_unet", "camvid_deeplab", "membrane")
RUNS = {
    "bccd": Run(
        "bccd",
        {"recipe": "bccd", "cpu_seconds": 640},
        BCCD,
    ),
    "camvid_unet": Run(
        "camvid",
        {"recipe": "camvid", "cpu_seconds": 600},
        CAMVID,
    ),
    "camvid_deeplab": Run(
        "camvid",
        {"recipe": "camvid_deeplab", "cpu_seconds": 600},
        {"mIoU": 0.42},
    ),
    "membrane": membrane(REGION),
    "membrane_border": membrane({**REGION, "border_weight": {"w0": 10, "sigma": 5, "background": 0}}),
    "membrane_boundary": membrane({**REGION, "boundary": {"weight": 0.02, "ramp": 30}}),
    "membrane_hausdorff": membrane({**REGION, "hausdorff": {"weight": 0.01, "ramp": 30}}),
    "membrane_boundary_iou": membrane({**REGION, "boundary_iou": 0.5}),
    "camvid_lraspp": street("lraspp", {"backbone": "mobilenet_v3_large"}),
    "camvid_pspnet": street("pspnet", {**NARROW, "width": 128}),
    "camvid_fcn": street("fcn", NARROW),
    "camvid_unet_plus_plus": street(
        "unet_plus_plus", {"backbone": "resnet18", "backbone_options": {**HALF, "levels": [2, 3, 4, 5]}}
    ),
    "camvid_deeplab_v3": street("deeplab_v3", {**NARROW, "width": 128}),
    "camvid_fpn": street("semantic_fpn", {**NARROW, "pyramid": 128, "width": 64}),
    "camvid_segformer": street("segformer", {**NARROW, "width": 128}),
    "coco_multi_hard": shared("multi_task", {"sharing": "hard"}),
    "coco_multi_soft": shared("multi_task", {"sharing": "soft"}),
    "coco_detection": shared("fcos_resnet18_fpn", {}),
    "coco_semantic": shared("semantic_fpn", {"backbone": "resnet18", "pyramid": 64}),
    "bccd_ssdlite": cells(0.46, "ssdlite320_mobilenet_v3_large", {"fine": True, "smallest": 0.06}, lr=0.003),
    "bccd_faster_rcnn": cells(
        0.0,
        "faster_rcnn",
        {
            "backbone": "mobilenet_v3_large",
            "width": 64,
            "hidden": 256,
            "smallest_anchor": 24,
            "settings": {"train_per_level": 300, "train_proposals": 300, "roi_batch": 128},
            "backbone_options": {"levels": [3, 4, 5]},
        },
    ),
    "bccd_fcos": cells(0.48, "fcos_resnet18_fpn", {"width": 64, "depth": 2, "backbone_options": HALF}),
    "bccd_centernet": cells(
        0.48, "centernet_resnet18", {"channels": [128, 64, 32], "width": 32, "backbone_options": HALF}
    ),
    "bccd_retinanet": cells(
        0.48, "retinanet_resnet18_fpn", {"width": 64, "depth": 2, "smallest_anchor": 16, "backbone_options": HALF}
    ),
    "peer_bccd_ssdlite": peer_cells("peer_ssdlite"),
    "peer_bccd_faster_rcnn": peer_cells(
        "peer_faster_rcnn", recipe="bccd", optim={"name": "adamw", "lr": 0.002}, **SMALL_STEPS
    ),
    "peer_camvid_lraspp": peer_street("peer_lraspp"),
    "peer_camvid_fcn": peer_street("peer_fcn"),
    "peer_camvid_pspnet": peer_street(architecture="PSPNet"),
    "peer_camvid_unet": peer_street(architecture="Unet"),
    "peer_camvid_deeplab": peer_street(architecture="DeepLabV3Plus", encoder="mobilenet_v2"),
    "peer_camvid_unet_plus_plus": peer_street(architecture="UnetPlusPlus"),
    "peer_camvid_deeplab_v3": peer_street(architecture="DeepLabV3"),
    "peer_camvid_fpn": peer_street(architecture="FPN"),
    "peer_camvid_segformer": peer_street(architecture="Segformer"),
}


def reached(evaluation: Evaluation) -> dict[str, float]:
    """The metrics that runs are judged by, by name: the overall ones, and "CLASS METRIC"."""
    values: dict[str, float] = {}
    for kind, result in evaluation.results.items():
        content = result.to_dict()
        values |= {name: value for name, value in content.items() if isinstance(value, int | float)}
        for name, row in content["per_class"].items():
            values |= {f"{name} {metric}": value for metric, value in row.items() if isinstance(value, int | float)}
        if kind in ("bbox", "semantic"):
            scores = [row.get("IoU") or row.get("AP") or 0 for row in content["per_class"].values()]
            values["classes above 0"] = sum(score > 0 for score in scores)
    return values


def box_ap_by_pycocotools(dataset: Any, predictions: Path) -> float:
    """COCO's AP of a predictions.json, by the reference implementation."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations = []
    for index in range(len(dataset)):
        target = dataset.target(index)
        for box, label, crowd, area in zip(target.boxes.tolist(), target.labels, target.crowd, target.area):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": dataset.image_id(index),
                    "category_id": dataset.classes.ids[label],
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": dataset.image_id(index)} for index in range(len(dataset))],
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in zip(dataset.classes.ids, dataset.classes.names)],
        }
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(json.loads(predictions.read_text())), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[0])


def run_once(
    run: Run, data: Path, out: Path, seed: int = 0, scale: float = 1.0, threads: int | None = None
) -> dict[str, float]:
    """Trains and evaluates once; every metric by name, and what training cost."""
    settings = {**SCRATCH, **run.settings, "seed": seed, "threads": threads}
    settings["cpu_seconds"] *= scale
    result = train(**settings, data=str(data / run.data), out=str(out / "run"))
    model = vision.load(result.weights)
    dataset = vision.open_dataset(str(data / run.data), "val", task=model.task)
    evaluation = evaluate(model, dataset, out=out / "val", analyse=run.data == "membrane", progress=False)
    values = reached(evaluation)
    if "bbox" in evaluation.results:
        folder = out / "val" / "detection" if model.task == "panoptic" else out / "val"
        reference = box_ap_by_pycocotools(dataset, folder / "predictions.json")
        if abs(reference - values["AP"]) > 1e-6:
            raise RuntimeError(f"AP {values['AP']} here, {reference} by pycocotools")
    return {**values, "images per CPU second": result.images_per_cpu_second, "CPU seconds": result.cpu_seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", default=OURS, help=f"of {', '.join(RUNS)}; default: ours")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs; must not exist")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each, averaged")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the CPU budgets")
    parser.add_argument("--threads", type=int, help="of PyTorch; one thread wastes no CPU seconds on waiting")
    arguments = parser.parse_args()
    peers.register()
    rows = []
    for name in arguments.runs:
        seeds = [
            run_once(
                RUNS[name],
                arguments.data,
                arguments.out / name / f"seed{seed}",
                seed,
                arguments.scale,
                arguments.threads,
            )
            for seed in range(arguments.seeds)
        ]
        for metric in [*RUNS[name].wanted, "images per CPU second", "CPU seconds"]:
            values = np.array([float(seed[metric] or 0) for seed in seeds])
            rows.append((name, metric, values.mean(), values.min(), values.max(), RUNS[name].wanted.get(metric)))
            print(f"{name}: {metric} {values.mean():.3f}", flush=True)
    print("\n| run | metric | mean | min | max | asked for |\n|---|---|---|---|---|---|")
    for name, metric, mean, low, high, wanted in rows:
        print(f"| {name} | {metric} | {mean:.3f} | {low:.3f} | {high:.3f} | {wanted or ''} |")


if __name__ == "__main__":
    main()
