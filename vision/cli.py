"""The command `vision`: train, evaluate, predict, export, score, check, convert, models, demo.

Nothing heavy is imported before the command is known, so that help appears at once. Exit codes: 0 done, 1 failed or
found something, 2 bad input, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from vision.arguments import add_evaluate, add_model, add_score, add_weights, outline_options, positive, share
from vision.engine.malloc import reuse_freed_memory

__all__ = ["main"]

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130

DESCRIPTION = """Object detection and segmentation: train, evaluate, predict.

  vision train    --model yolo_n --data DATA --out runs/mine
  vision evaluate --weights runs/mine/best.safetensors --data DATA
  vision predict  --weights runs/mine/best.safetensors IMAGES... --out pictures

DATA is a folder or annotation file in COCO, VOC or YOLO layout, image + mask folders, a card (YAML), or "shapes", the
data set that is generated. `vision COMMAND --help` explains each command."""


def _train(arguments: Sequence[str]) -> int:
    from vision.engine.options import read_config, train_parser

    if not arguments or {"-h", "--help"} & set(arguments):
        train_parser().print_help()
        return 0
    config = read_config(arguments)
    from vision.engine.train import train

    result = train(config)
    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    if result.suggested_lr is not None:
        print(f"learning rate: {result.suggested_lr:.2g}; curve: {result.folder / 'find_lr.svg'}")
        return 0
    results = result.folder / "results.md"
    if results.is_file():
        print(results.read_text())
    print(
        f"{result.epochs} epochs, {result.steps} steps, {result.cpu_seconds:.0f} user-CPU seconds, "
        f"{result.images_per_cpu_second:.1f} training images per CPU second"
    )
    if result.weights.is_file():
        print(f"weights: {result.weights}")
    if not result.finished:
        print(f"paused; go on with --resume --out {result.folder}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from vision.data import open_dataset
    from vision.data.problem import MissingSplit
    from vision.engine.checkpoint import load
    from vision.engine.evaluate import evaluate

    model = load(options.weights)
    split = options.split or (None if options.data.endswith(".json") else "val")  # an annotation file is its own split
    try:
        dataset = open_dataset(options.data, split, task=model.reads)
    except MissingSplit as error:
        raise ValueError(f"{error}; name the one to judge by: --split") from None
    evaluation = evaluate(
        model, dataset, batch_size=options.batch_size, workers=options.workers, device=options.device,
        precision=options.precision, out=options.out, tile=options.tile, tta=options.tta, crf=options.crf,
        max_detections=options.max_detections, iou_threshold=options.iou, protocol=options.protocol,
        analyse=options.analyse, boundary=options.boundary, per_image=options.per_image,
        outlines=outline_options(options),
    )  # fmt: skip
    print(evaluation.table(options.format))
    if options.out:
        print(f"metrics.json, results.md and predictions are in {options.out}", file=sys.stderr)
    return 0


def _predict(options: argparse.Namespace) -> int:
    from vision.engine.checkpoint import load
    from vision.engine.predict import predict_to_folder

    counts = predict_to_folder(
        load(options.weights), options.sources, options.out, score_threshold=options.score, iou_threshold=options.iou,
        max_detections=options.max_detections, device=options.device, precision=options.precision, tile=options.tile,
        tta=options.tta, crf=options.crf, scores=options.scores, max_frames=options.max_frames,
    )  # fmt: skip
    print(", ".join(f"{count} {name}" for name, count in counts.items()) + f" -> {options.out}")
    return FAILED if counts.get("unreadable") else 0


def _export(options: argparse.Namespace) -> int:
    from vision.engine.checkpoint import load
    from vision.engine.export import export

    differences = export(
        load(options.weights), options.out, size=_two_sides(options.size), batch_size=options.batch_size,
        score_threshold=options.score,
    )  # fmt: skip
    print(f"{options.out}: images -> {', '.join(differences)}")
    print("largest difference from PyTorch: " + ", ".join(f"{name} {gap:.1e}" for name, gap in differences.items()))
    return 0


def _two_sides(size: list[int] | None) -> tuple[int, int] | None:
    if size is not None and len(size) > 2:
        raise ValueError(f"--size: {len(size)} numbers; expected a side, or height and width")
    return None if size is None else (size[0], size[-1])


def _score(options: argparse.Namespace) -> int:
    from vision.metrics.score import main_score

    classes = options.classes.split(",") if options.classes else None
    if classes and len(classes) == 1 and classes[0].isdigit():
        classes = int(classes[0])
    return main_score(
        options.task, options.truth, options.predictions, options.out, classes=classes, ignore=options.ignore,
        max_detections=tuple(options.max_detections), pycocotools_ids=options.pycocotools_ids,
        protocol=options.protocol, analyse=options.analyse, per_image=options.per_image,
        outlines=outline_options(options), style=options.format,
    )  # fmt: skip


def _check(options: argparse.Namespace) -> int:
    from vision.data.check import main_check

    return main_check(options.data, options.split)


def _convert(options: argparse.Namespace) -> int:
    from vision.data.convert import convert

    print(convert(options.source, options.destination, options.to, options.split, options.images, options.task))
    return 0


def _models(options: argparse.Namespace) -> int:
    """The names by family: the first line of each module says what it is and where it comes from."""
    import importlib

    from vision.models import MODELS

    families: dict[str, list[str]] = {}
    for name, place in MODELS.items():
        families.setdefault(place.split(":")[0], []).append(name)
    for module, names in sorted(families.items()):
        text = (importlib.import_module(module).__doc__ or "").strip().splitlines()[0]
        print(f"{text}\n    {' '.join(sorted(names))}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from vision.engine.demo import run_demo

    run_demo(options.out, say=print)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("vision", description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("train", help="train a model; writes a run folder", add_help=False)
    add_evaluate(_command(commands, "evaluate", _evaluate, "metrics of a checkpoint on a data set: tables and JSON"))
    _add_predict(
        _command(commands, "predict", _predict, "run a checkpoint on images, folders, videos, a camera or a stream")
    )
    _add_export(_command(commands, "export", _export, "write a checkpoint as an ONNX file, decoding and NMS inside"))
    add_score(_command(commands, "score", _score, "metrics from files alone, without a model"))
    check = _command(commands, "check", _check, "tell what is wrong with a data set; exit code 1 when something is")
    check.add_argument("data", metavar="DATA", help="data set to look at")
    check.add_argument("--split", help="one split only, or a part of one, as train:80%%; default: all")
    convert = _command(commands, "convert", _convert, "write a data set in another layout")
    convert.add_argument("source", metavar="SRC", help="data set to read")
    convert.add_argument("destination", metavar="DST", help="folder to write; must not exist")
    convert.add_argument("--to", required=True, choices=("coco", "voc", "yolo", "masks"), help="layout to write")
    convert.add_argument("--split", help="one split only, or a part of one, as train:80%%; default: all that there are")
    convert.add_argument("--task", choices=("detection", "semantic"), help="which annotations, where there are several")
    convert.add_argument("--images", default="link", choices=("link", "copy"), help="how images get there")
    _command(commands, "models", _models, "list the models")
    demo = _command(commands, "demo", _demo, "train, evaluate and predict on generated images, a few minutes on a CPU")
    demo.add_argument("--out", default="demo", help="folder for runs and pictures (default: %(default)s)")
    return parser


def _command(commands: Any, name: str, run: Callable[..., int], text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_predict(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="image, folder, glob, video, camera number or URL of a stream"
    )
    parser.add_argument("--out", required=True, help="folder for pictures, videos, predictions.json; must not exist")
    parser.add_argument(
        "--score", type=share,
        help="lowest score that is shown (default: 0.3); of binary and multi-label segmenters the lowest probability "
        "of a class (default: 0.5)",
    )  # fmt: skip
    parser.add_argument("--max-detections", type=positive, help="of an image; default: the model's own")
    parser.add_argument(
        "--scores", action="store_true", help="segmentation: write the class probabilities of images to scores/NAME.npy"
    )
    parser.add_argument("--max-frames", type=positive, help="end a video or camera after this many frames")


def _add_export(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    parser.add_argument("--out", required=True, help="ONNX file; must not exist")
    parser.add_argument(
        "--size", type=positive, nargs="+", metavar="PIXELS",
        help="side, or height and width, of the input; default: as in training",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=positive, default=1, help="images at once (default: %(default)s)")
    parser.add_argument("--score", type=share, help="lowest score that is returned; default: the model's own")


def _version() -> str:
    from vision import __version__

    return f"vision {__version__}"


def _log_to_stderr() -> None:
    """Messages of the package on stderr, above a progress bar; other processes than the first one only warn."""
    logger = logging.getLogger("vision")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.emit = _emit  # type: ignore[method-assign]
        logger.addHandler(handler)
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    logger.propagate = False


def _emit(record: logging.LogRecord) -> None:
    from tqdm import tqdm

    tqdm.write(record.getMessage(), file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code; errors are one line on stderr unless --debug is given."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    # OpenMP's threads otherwise spin while they wait: a second thread that has to share its core then costs three times
    # the CPU seconds. It is read when torch is first imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    reuse_freed_memory()
    _log_to_stderr()
    try:
        if arguments[:1] == ["train"]:
            return _train([argument for argument in arguments[1:] if argument != "--debug"])
        options = _parser().parse_args(arguments)
        return options.run(options)
    except KeyboardInterrupt:
        print("stopped; a training run goes on with --resume", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if debug:
            raise
        print(f"vision: error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except Exception as error:
        if debug:
            raise
        print(f"vision: {type(error).__name__}: {error} (--debug shows where)", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
