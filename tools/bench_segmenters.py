"""Segmentation models beside torchvision's and segmentation_models.pytorch's, with the same weights, in one run.

    python tools/bench_segmenters.py [models] [jpu] [loss] [--size 256 320] [--batch 2] [--rounds 3] [--device cpu]

models  inference as `vision predict` runs it (batch norms folded, channels_last, freed memory kept), in float32 and by
        default (bf16 where the processor has it), and a training step (theirs: float32, plain cross-entropy; ours: the
        default loss and precision), as ratios of time: above 1 ours is faster. Each side has a process of its own,
        theirs as a program that imports their library; --plain-malloc: ours allocates as that does.
jpu     FastFCN's joint pyramid upsampling against a backbone dilated to stride 8: time and peak memory of a train step.
loss    peak memory of Dice, Tversky, boundary and Hausdorff losses, forward and backward, 8 x 19 classes x 512 x 1024
        (smaller with --loss-scale), beside segmentation_models.pytorch's and monai's where these have them.

On a CPU times are processor seconds of all threads, the best of a few rounds in which the two sides take turns. Peak
memory is the growth of the resident set of a fresh process above what it held before the step; on a GPU, PyTorch's own
count. Both sides' logits are compared first: the ratio of two different functions would mean nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from sides import Jobs, add_options, race
from torch import Tensor, nn

from vision.engine.device import DTYPES, autocast, choose_precision
from vision.engine.inference import ready_model
from vision.layers.planar import use_planar_gradients
from vision.models import TrainStep, build_model
from vision.models.base import IMAGENET_MEAN, IMAGENET_STD
from vision.pretrained.segmentation import load_segmentation_state
from vision.structures import ClassMap, Targets

CLASSES = 21
SOURCES = (
    "torchvision:fcn_resnet50", "torchvision:deeplabv3_resnet50", "torchvision:deeplabv3_mobilenet_v3_large",
    "torchvision:lraspp_mobilenet_v3_large", "smp:unet:resnet18", "smp:pspnet:resnet18",
    "smp:deeplabv3plus:mobilenet_v2",
)  # fmt: skip


def foreign(source: str) -> nn.Module:
    """The other library's model with random weights."""
    library, name, *encoder = source.split(":")
    torch.manual_seed(0)
    if library == "torchvision":
        from torchvision.models import get_model

        return get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES)
    import segmentation_models_pytorch as smp

    known = {"unet": smp.Unet, "pspnet": smp.PSPNet, "deeplabv3plus": smp.DeepLabV3Plus}
    return known[name](encoder[0], encoder_weights=None, classes=CLASSES)


def logits_of(outputs: Tensor | dict) -> Tensor:
    return outputs["out"] if isinstance(outputs, dict) else outputs


def semantic(labels: Tensor) -> Targets:
    none = labels.new_zeros(len(labels), 1)
    return Targets(none, none, none, none, semantic=labels)


def inputs(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Images in [0, 1], the same normalised, labels."""
    torch.manual_seed(1)
    images = torch.rand(options.batch, 3, *options.size)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    labels = torch.randint(0, CLASSES, (options.batch, *options.size))
    return tuple(tensor.to(options.device) for tensor in (images, (images - mean) / std, labels))


def their_jobs(source: str, options: argparse.Namespace) -> Jobs:
    model = foreign(source).to(options.device)
    _, normalised, labels = inputs(options)

    def predict() -> None:
        model.eval()
        with torch.inference_mode():
            model(normalised)

    def step() -> None:
        model.train().zero_grad()
        F.cross_entropy(logits_of(model(normalised)), labels).backward()

    return Jobs({"predict": predict, "step": step})


def our_jobs(source: str, options: argparse.Namespace) -> Jobs:
    device = torch.device(options.device)
    precision = choose_precision("auto", device)
    theirs = foreign(source).eval().to(device)
    model = load_segmentation_state(source, ClassMap.of(CLASSES), theirs.state_dict()).eval()
    model.to(device, memory_format=torch.channels_last)
    plain, ready = ready_model(model, device, "fp32"), ready_model(model, device, precision)
    images, normalised, labels = inputs(options)
    with torch.inference_mode():
        expected, found = logits_of(theirs(normalised)), plain(images).logits
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
    use_planar_gradients(model, device, DTYPES[precision])  # as `vision train` does
    train_step, targets = TrainStep(model).train(), semantic(labels)

    def predict_plain() -> None:
        with torch.inference_mode():
            plain(images)

    def predict() -> None:
        with torch.inference_mode(), autocast(device, precision):
            ready(images)

    def step() -> None:
        model.zero_grad()
        with autocast(device, precision):
            losses = train_step(images, targets)
        sum(losses.values()).backward()

    return Jobs({"float32": predict_plain, "default": predict, "step": step}, {"error": error})


def compare(source: str, options: argparse.Namespace) -> str:
    pairs = [("predict", "float32"), ("predict", "default"), ("step", "step")]
    times, facts = race(their_jobs, our_jobs, source, options, pairs)
    ratios = "".join(f" {theirs / ours:9.2f}" for theirs, ours in times)
    return f"{source:44s}{ratios} {times[0][0] * 1000:10.0f} {times[0][1] * 1000:9.0f} {facts['error']:9.1e}"


def peak_of(task: Callable[..., None], *arguments: object, device: str) -> tuple[float, float]:
    """Seconds and peak megabytes of `task(*arguments)` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measured, (task, arguments, device))


def _measured(task: Callable[..., Callable[[], None]], arguments: tuple, device: str) -> tuple[float, float]:
    call = task(*arguments, device)
    if device != "cpu":
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, start = torch.cuda.memory_allocated(), time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - start, (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    call()
    return time.process_time() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def train_step(name: str, settings: dict, batch: int, size: tuple[int, int], device: str) -> Callable[[], None]:
    model = build_model(name, CLASSES, **settings).train().to(device, memory_format=torch.channels_last)
    images = torch.rand(batch, 3, *size, device=device)
    targets = semantic(torch.randint(0, CLASSES, (batch, *size), device=device))
    return lambda: sum(TrainStep(model)(images, targets).values()).backward()


LOSSES = {
    "dice": ("ours", "smp", "monai"),
    "tversky": ("ours", "smp", "monai"),
    "boundary": ("ours",),
    "hausdorff": ("ours", "monai"),
}


def loss_step(which: str, kind: str, shape: tuple[int, ...], device: str) -> Callable[[], None]:
    """One forward and backward of a library's loss on random logits and labels in blocks of 32 pixels."""
    logits = torch.randn(shape, device=device, requires_grad=True)
    coarse = torch.randint(0, shape[1], (shape[0], *(-(-side // 32) for side in shape[2:])), device=device)
    labels = coarse.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, : shape[2], : shape[3]].contiguous()
    criterion = _criterion(which, kind)
    labels = labels[:, None] if which == "monai" else labels
    return lambda: criterion(logits, labels).backward()


def _criterion(which: str, kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    if which == "ours":
        from vision.losses import boundary, region

        known = {"dice": region.dice_loss, "tversky": region.tversky_loss, "boundary": boundary.boundary_loss}
        return {**known, "hausdorff": boundary.hausdorff_distance_loss}[kind]
    if which == "smp":
        from segmentation_models_pytorch import losses

        return {"dice": losses.DiceLoss, "tversky": losses.TverskyLoss}[kind]("multiclass")
    from monai.losses import DiceLoss, HausdorffDTLoss, TverskyLoss

    known = {"dice": DiceLoss, "tversky": TverskyLoss, "hausdorff": HausdorffDTLoss}
    return known[kind](softmax=True, to_onehot_y=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="models, jpu, loss; default: all")
    parser.add_argument(
        "--sources", nargs="+", default=SOURCES, help="which models, as torchvision:NAME, smp:NAME:ENCODER"
    )
    parser.add_argument("--size", nargs=2, type=int, default=(256, 320))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--loss-scale", type=int, default=1, help="divides height and width of the loss's logits")
    parser.add_argument("--losses", nargs="+", default=tuple(LOSSES), choices=tuple(LOSSES))
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = options.parts or ["models", "jpu", "loss"]
    if "models" in parts:
        heads = ("float32", "default", "training")
        print(f"{'theirs / ours, above 1: ours is faster':44s}" + "".join(f" {head:>9s}" for head in heads), end="")
        print(f" {'theirs, ms':>10s} {'ours, ms':>9s} {'error':>9s}")
        for source in options.sources:
            print(compare(source, options), flush=True)
    if "jpu" in parts:
        settings = {"backbone": "resnet50", "width": 512}
        print("\none train step, ResNet-50, EncNet's head:       seconds   peak MB")
        for name in ("encnet", "fastfcn"):
            spent, peak = peak_of(train_step, name, settings, options.batch, tuple(options.size), device=options.device)
            print(f"{'dilated, stride 8' if name == 'encnet' else 'JPU':44s} {spent:10.2f} {peak:9.0f}", flush=True)
    if "loss" in parts:
        shape = (8, 19, 512 // options.loss_scale, 1024 // options.loss_scale)
        print(f"\nforward and backward on {shape}, peak beyond the logits:   seconds   peak MB")
        for kind in options.losses:
            for which in LOSSES[kind]:
                spent, peak = peak_of(loss_step, which, kind, shape, device=options.device)
                print(f"{kind + ', ' + which:44s} {spent:10.2f} {peak:9.0f}", flush=True)


if __name__ == "__main__":
    main()
