"""What the command line of `vision evaluate` and `vision score` takes, and what several commands share."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_evaluate", "add_model", "add_score", "add_weights", "outline_options", "positive", "share"]

MAPS = "Hausdorff distance, HD95, mean surface distance, surface Dice, boundary IoU, Rand scores"


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", required=True, help="checkpoint: best.safetensors, last.pt, or shipped weights' name"
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """How a checkpoint is run."""
    add_weights(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="arithmetic")
    parser.add_argument("--tile", type=positive, help="segmentation: cut large images into squares of this side")
    parser.add_argument("--tta", action="store_true", help="segmentation: average over flips and scales")
    parser.add_argument("--crf", action="store_true", help="segmentation: refine the borders by a dense CRF (slow)")
    parser.add_argument("--iou", type=share, help="IoU above which the lower-scored of two boxes is dropped")


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--data", required=True, help="data set, as for train")
    parser.add_argument(
        "--split", help="split to evaluate on, or a part as train:-20%%; default: val, or the file that DATA is"
    )
    parser.add_argument("--out", help="folder for metrics.json, results.md, predictions; must not exist")
    parser.add_argument("--batch-size", type=positive, default=16, help="images at once (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load data (default: %(default)s)")
    parser.add_argument("--max-detections", type=positive, default=100, help="of an image (default: %(default)s)")
    _add_rules(parser, f"average precision, {MAPS}")
    parser.add_argument("--boundary", action="store_true", help="instances: boundary AP as well")


def add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, choices=("detection", "instance", "boundary", "semantic", "panoptic"))
    parser.add_argument("truth", metavar="GROUND_TRUTH", help="COCO annotation file, or folder of masks")
    parser.add_argument("predictions", metavar="PREDICTIONS", help="COCO results file, or folder of masks")
    parser.add_argument("--out", help="JSON file for the metrics")
    parser.add_argument(
        "--classes", help="semantic: names of the labels with commas between them, or how many there are"
    )
    parser.add_argument(
        "--ignore", type=int,
        help="semantic: label that does not count (default: 255; none where the truth's labels are 0 and 255 alone)",
    )  # fmt: skip
    parser.add_argument(
        "--max-detections", type=positive, nargs="+", default=(1, 10, 100), metavar="N",
        help="objects: limits of detections by image and class, after the files (default: 1 10 100)",
    )  # fmt: skip
    parser.add_argument(
        "--pycocotools-ids", action="store_true", help="objects: a match with annotation id 0 counts as none, as there"
    )
    _add_rules(parser, MAPS)


def _add_rules(parser: argparse.ArgumentParser, maps: str) -> None:
    """What is measured and how it is shown; `maps`: what `--analyse` adds for semantic maps."""
    parser.add_argument(
        "--protocol", default="coco", choices=("coco", "voc", "voc_inclusive"),
        help="objects: rules of AP; voc_inclusive: both corners are pixels of the box (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--analyse", action="store_true",
        help="also, of objects: precision-recall curves, best scores, confusion matrix, shares of errors; of semantic "
        f"maps: {maps}",
    )  # fmt: skip
    parser.add_argument("--per-image", action="store_true", help="semantic maps: means over images")
    outlines = parser.add_argument_group("outlines of semantic maps, with --analyse")
    outlines.add_argument("--percentile", type=float, help="of distances, beside the largest (default: 95)")
    outlines.add_argument("--tolerance", type=float, help="of surface Dice, in units of the spacing (default: 1)")
    outlines.add_argument(
        "--spacing", type=float, nargs=2, metavar=("HEIGHT", "WIDTH"), help="size of a pixel (default: 1 1)"
    )
    parser.add_argument(
        "--format", default="console", choices=("console", "markdown", "csv", "json"),
        help="of the tables on standard output (default: %(default)s)",
    )  # fmt: skip


def outline_options(options: argparse.Namespace) -> Any:
    """An OutlineOptions of what was given of it; None for nothing."""
    chosen = {"percentile": options.percentile, "tolerance": options.tolerance, "spacing": options.spacing}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if not chosen:
        return None
    from vision.metrics import OutlineOptions

    return OutlineOptions(**chosen)


def positive(text: str) -> int:
    """The whole number of 1 or more that an argument is."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of 1 or more")
    return int(text)


def share(text: str) -> float:
    """The number from 0 to 1 that an argument is."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 1")
    return value
