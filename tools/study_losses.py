#!/usr/bin/env python
"""What each region and boundary loss does to mIoU, Dice and HD95 with everything else equal; prints a Markdown table.

    python tools/study_losses.py --data PATH --epochs 60 --out runs/losses

A U-Net is trained with each loss from the same weights, on the same images in the same order, for as many steps, and
without class weights. Boundary terms join in the second half of the run, beside cross-entropy and Dice, as their
papers have them beside a region loss. HD95: mean over classes, of the mean over the images that have the class in both
maps, in pixels of the label maps. `--again 1` trains the first loss once more with another seed: differences between
losses that are no larger than those between seeds mean nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import vision
from vision.metrics import SegmentationScore, SurfaceDistance


def losses(epochs: int) -> dict[str, Any]:
    """What can be studied, by title, in a run of so many epochs."""
    late = {"from_epoch": epochs // 2}
    both = {"cross_entropy": 1.0, "dice": 1.0}
    return {
        "cross-entropy": "cross_entropy",
        "focal": "focal",
        "Dice": "dice",
        "cross-entropy + Dice": both,
        "cross-entropy + generalised Dice": {"cross_entropy": 1.0, "generalised_dice": 1.0},
        "cross-entropy + log-cosh Dice": {"cross_entropy": 1.0, "log_cosh_dice": 1.0},
        "cross-entropy + Jaccard": {"cross_entropy": 1.0, "jaccard": 1.0},
        "cross-entropy + Tversky": {"cross_entropy": 1.0, "tversky": 1.0},
        "cross-entropy + focal Tversky": {"cross_entropy": 1.0, "focal_tversky": 1.0},
        "cross-entropy + Lovász": {"cross_entropy": 1.0, "lovasz": 1.0},
        "cross-entropy + Dice + boundary": {**both, "boundary": {"weight": 0.01, **late}},
        "cross-entropy + Dice + Hausdorff": {**both, "hausdorff": {"weight": 0.001, **late}},
        "cross-entropy + Dice + boundary IoU": {**both, "boundary_iou": {"weight": 0.5, **late}},
        "cross-entropy with border weights": {"cross_entropy": 1.0, "border_weight": {}},
    }


def measure(weights: Path, data: str) -> tuple[float, float, float]:
    """mIoU, mean Dice and HD95 of trained weights on the validation split, at the size of the source images."""
    model = vision.load(weights)
    dataset = vision.open_dataset(data, "val", task="semantic")
    score, distance = SegmentationScore(dataset.classes), SurfaceDistance(dataset.classes)
    for index, found in enumerate(vision.predict(model, [dataset.image(i) for i in range(len(dataset))])):
        truth = torch.from_numpy(dataset.target(index, semantic=True).semantic).long()[None]
        predicted = found.segmentation.labels.cpu()[None]
        score.update(predicted, truth)
        distance.update(predicted, truth)
    figures = score.compute().to_dict()
    hd95 = torch.from_numpy(distance.compute().values[..., 1])  # (images, classes); infinite: in one map only
    hd95 = torch.where(hd95.isfinite(), hd95, torch.nan).nanmean(0).nanmean().item()
    return figures["mIoU"], figures["mean_dice"], hd95


def train_once(options: argparse.Namespace, title: str, seed: int) -> str:
    """Trains and measures once; a row of the table."""
    result = vision.train(
        model="unet", model_options=options.model_options, data=options.data, loss=losses(options.epochs)[title],
        out=str(options.out / f"{title.replace(' ', '_')}_{seed}"), image_size=tuple(options.image_size),
        resize=options.resize, epochs=options.epochs, batch_size=options.batch_size, plain_share=0.0, seed=seed,
        optim={"name": "adamw", "lr": options.lr, "weight_decay": 0.01}, val_split=None, threads=options.threads,
        augment={"flip_horizontal": 0.5, "brightness": 0.2, "contrast": 0.2},
    )  # fmt: skip
    miou, dice, distance = measure(result.weights, options.data)
    title += f" (seed {seed})" if seed else ""
    return f"| {title} | {miou:.3f} | {dice:.3f} | {distance:.2f} | {result.cpu_seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = list(losses(2))
    parser.add_argument("--data", required=True, help="data set with semantic maps")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--image-size", type=int, nargs=2, default=[256, 256])
    parser.add_argument("--resize", choices=["letterbox", "stretch", "keep"], default="letterbox")
    parser.add_argument("--model-options", type=json.loads, default={})
    parser.add_argument("--losses", nargs="+", default=known, choices=known)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--again", type=int, default=0, help="more seeds of the first loss")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    print("| loss | mIoU | mean Dice | HD95, pixels | CPU seconds |\n|---|---|---|---|---|", flush=True)
    first, *others = options.losses
    for title, seed in [*((first, seed) for seed in range(options.again + 1)), *((title, 0) for title in others)]:
        print(train_once(options, title, seed), flush=True)


if __name__ == "__main__":
    main()
