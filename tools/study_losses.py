#!/usr/bin/env python
"""What each region and boundary loss does to mIoU, Dice and HD95 with everything else equal; prints a Markdown table.

    python tools/study_losses.py --data membrane=PATH camvid=PATH --epochs 60 --out runs/losses

A U-Net is trained with each loss from the same weights, on the same images in the same order, for as many
epochs. `boundary` terms stand beside Dice, as their papers have it. HD95 is the mean over images and classes present in
both maps, in pixels of the label maps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import vision
from vision.metrics.segmentation import SegmentationScore
from vision.ops.distance import distance_transform

SPECS = {
    "cross-entropy": "ce",
    "focal": "focal",
    "Dice": "dice",
    "cross-entropy + Dice": "ce+dice",
    "Jaccard": "jaccard",
    "Tversky": "tversky",
    "focal Tversky": "focal_tversky",
    "Lovász": "lovasz",
    "cross-entropy + Lovász": "ce+lovasz",
    "ce + Dice + boundary": {"ce": 1.0, "dice": 1.0, "boundary": {"weight": 0.01, "ramp": 10}},
    "ce + Dice + Hausdorff": {"ce": 1.0, "dice": 1.0, "hausdorff": {"weight": 0.001, "ramp": 10}},
    "ce + Dice + boundary IoU": {"ce": 1.0, "dice": 1.0, "boundary_iou": {"weight": 0.5, "ramp": 10}},
}


def hausdorff95(predicted: torch.Tensor, truth: torch.Tensor, classes: int) -> list[float]:
    """The 95th percentile of the distances between the contours of (H, W) label maps, each class present in both."""
    keep, values = truth != 255, []
    for label in range(classes):
        masks = [(labels == label) & keep for labels in (predicted, truth)]
        if not all(mask.any() and not mask.all() for mask in masks):
            continue
        contours = [mask & (distance_transform(mask) <= 1) for mask in masks]
        distances = [distance_transform(~contour) for contour in contours]
        both = torch.cat([distances[1][contours[0]], distances[0][contours[1]]])
        values.append(both.quantile(0.95).item())
    return values


def measure(weights: Path, data: str) -> tuple[float, float, float]:
    """mIoU, mean Dice and HD95 of trained weights on the validation split, at the size of the source images."""
    model = vision.load(weights)
    dataset = vision.open_dataset(data, "val", task="semantic")
    score = SegmentationScore(dataset.classes)
    distances: list[float] = []
    for index, found in enumerate(vision.predict(model, [dataset.image(i) for i in range(len(dataset))])):
        truth = torch.from_numpy(dataset.target(index, semantic=True).semantic).long()
        predicted = found.segmentation.labels.cpu()
        score.update(predicted[None], truth[None])
        distances += hausdorff95(predicted, truth, len(dataset.classes))
    figures = score.compute().to_dict()
    return figures["mIoU"], figures["mean_dice"], sum(distances) / len(distances) if distances else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="NAME=PATH of data sets with semantic maps")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--image-size", type=int, nargs=2, default=[256, 256])
    parser.add_argument("--model-options", type=json.loads, default={})
    parser.add_argument("--losses", nargs="+", default=list(SPECS), choices=list(SPECS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for entry in options.data:
        name, path = entry.split("=", 1)
        print(f"\n{name}: {options.epochs} epochs a loss, {options.image_size}, seed {options.seed}\n")
        print("| loss | mIoU | mean Dice | HD95, pixels | steps |\n|---|---|---|---|---|", flush=True)
        for title in options.losses:
            folder = options.out / name / title.replace(" ", "_").replace("+", "and")
            result = vision.train(
                model="unet", model_options=options.model_options, data=path, out=str(folder), loss=SPECS[title],
                image_size=tuple(options.image_size), epochs=options.epochs, batch_size=options.batch_size,
                val_split=None, seed=options.seed,
            )  # fmt: skip
            miou, dice, distance = measure(result.weights, path)
            print(f"| {title} | {miou:.3f} | {dice:.3f} | {distance:.1f} | {result.steps} |", flush=True)


if __name__ == "__main__":
    main()
