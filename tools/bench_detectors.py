"""Detectors beside torchvision's same ones, with the same random weights and inputs, as ratios from one run.

    python tools/bench_detectors.py [--models NAME ...] [--size 640] [--batch 8] [--rounds 3] [--device cpu]

Every number is torchvision's time over ours: above 1 ours is faster. Theirs runs as it is built, in float32 and the
default memory layout, ours as `vision predict` does: batch norms folded, channels_last. plain: in float32, batch 1;
batch: the same with --batch images; default: in bf16 where the processor has matrix units for it; outside: what of one
float32 image's time is spent outside of backbone, pyramid and heads, that is in anchors, decoding, NMS, RoIAlign and
pasting masks; step: forward, loss, backward and optimiser with --train-batch images. The first line is pasting 100
instance masks into a 1080p image. On a CPU, processor seconds, the best of a few rounds in which the two take turns;
on a GPU, wall time. SSD's models run at their own size.

The class scores are brought to a spread at which a few hundred boxes pass the thresholds, as in a trained model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from bench_segmenters import turns
from torch import Tensor, nn

from vision.engine.device import autocast, choose_precision
from vision.engine.inference import ready_model
from vision.models import TrainStep, VisionModel, build_model
from vision.ops.masks import paste_masks
from vision.pretrained.dense import DENSE_CONVERTERS, load_dense_state
from vision.pretrained.torchvision_two_stage import load_two_stage_state
from vision.structures import Targets

CLASSES = 80
FIXED = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}
# torchvision builds the MobileNets of its detectors with another epsilon than its classifiers have
MOBILE = {"backbone": "mobilenet_v3_large", "backbone_options": {"norm": partial(nn.BatchNorm2d, eps=1e-5)}}
TWO_STAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "fasterrcnn_mobilenet_v3_large_fpn": ("faster_rcnn", {**MOBILE, "settings": {"rpn_score_threshold": 0.05}}),
    "fasterrcnn_resnet50_fpn": ("faster_rcnn", {}),
    "fasterrcnn_resnet50_fpn_v2": ("faster_rcnn", {"recipe": "v2"}),
    "maskrcnn_resnet50_fpn": ("mask_rcnn", {}),
    "maskrcnn_resnet50_fpn_v2": ("mask_rcnn", {"recipe": "v2"}),
}
NETWORKS = (
    "backbone", "neck", "head", "rpn.head", "rpn", "stages", "mask_head", "roi_heads.box_head",
    "roi_heads.box_predictor", "roi_heads.mask_head", "roi_heads.mask_predictor",
)  # fmt: skip


def pair(name: str, size: int, device: torch.device) -> tuple[nn.Module, VisionModel]:
    """torchvision's detector and ours with its weights."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    resized = {} if name in FIXED else {"min_size": size, "max_size": size}
    theirs = get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES + 1, **resized).eval()
    spread_scores(theirs, torch.rand(1, 3, size, size))
    if name in TWO_STAGE:
        ours_name, options = TWO_STAGE[name]
        ours = build_model(ours_name, CLASSES, **options)
        load_two_stage_state(ours, theirs.state_dict())
    else:
        options = {"assignment": "overlap"} if name == "retinanet_resnet50_fpn_v2" else {}
        ours = build_model(DENSE_CONVERTERS[name][0], CLASSES, **options)
        load_dense_state(ours, name, theirs.state_dict(), range(1, CLASSES + 1))
    return theirs.to(device), ours.eval().to(device, memory_format=torch.channels_last)


@torch.no_grad()
def spread_scores(network: nn.Module, images: Tensor) -> None:
    """Gives every layer of class scores outputs of deviation 1 to 1.5, and a bias for the background."""
    softmax = not hasattr(network, "head") or type(network).__name__ == "SSD"
    layers = [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        and ("cls_score" in name or "cls_logits" in name or "classification_head.module_list" in name)
        and (module.weight.shape[0] % (CLASSES + 1) == 0 or "rpn" in name)
    ]
    for layer in layers:
        layer.bias.zero_()  # a spread that only biases make would be gone with them
    spreads: dict[nn.Module, Tensor] = {}

    def measure(layer: nn.Module, _: Any, found: Tensor) -> None:
        spreads.setdefault(layer, found.std())

    handles = [layer.register_forward_hook(measure) for layer in layers]
    network(list(images))
    for handle in handles:
        handle.remove()
    for layer in layers:
        layer.weight.mul_((1.5 if softmax else 1.0) / spreads[layer].clamp(min=1e-6) if layer in spreads else 1.0)
        if layer.weight.shape[0] % (CLASSES + 1):
            continue
        layer.bias.fill_(0.0 if softmax else -5.0)
        layer.bias.view(-1, CLASSES + 1)[:, 0] = 4.0 if softmax else -100.0


@contextmanager
def network_time(model: nn.Module, device: torch.device) -> Iterator[list[float]]:
    """Adds up, in the list's one entry, the time inside of the layers of `NETWORKS`."""
    spent, begun = [0.0], []

    def enter(*_: Any) -> None:
        begun.append(clock(device))

    def leave(*_: Any) -> None:
        spent[0] += clock(device) - begun.pop()

    handles = []
    for name, module in model.named_modules():
        found = name in NETWORKS and not (name == "rpn" and hasattr(module, "head"))
        for part in (module if name == "stages" else [module]) if found else []:
            handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    yield spent
    for handle in handles:
        handle.remove()


def clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def outside(call: Callable[[], object], model: nn.Module, device: torch.device) -> float:
    """Seconds of one call that are not spent in the model's layers."""
    with network_time(model, device) as spent:
        begun = clock(device)
        call()
        return clock(device) - begun - spent[0]


def prediction(model: VisionModel, images: Tensor, precision: str) -> Callable[[], object]:
    sizes = torch.tensor([images.shape[-2:]] * len(images))

    def call() -> object:
        with torch.inference_mode():
            with autocast(images.device, precision):
                outputs = model(images)
            return model.decode(outputs, sizes)

    return call


def their_prediction(model: nn.Module, images: Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return model(list(images))

    return call


def training(
    theirs: nn.Module, ours: VisionModel, images: Tensor, precision: str
) -> tuple[Callable[[], None], Callable[[], None]]:
    """One step each, on the same objects: SGD on all parameters."""
    theirs, ours = theirs.train(), ours.train()
    targets = some_objects(images)
    rows = [
        {"boxes": boxes, "labels": labels + 1, "masks": masks.byte()}
        for boxes, labels, masks in zip(targets.boxes, targets.labels, targets.masks.unflatten(0, (len(images), -1)))
    ]
    step = TrainStep(ours)
    optimisers = [torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9) for model in (theirs, ours)]

    def finish(losses: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> None:
        sum(losses.values()).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def their_step() -> None:
        finish(theirs(list(images), rows), optimisers[0])

    def our_step() -> None:
        with autocast(images.device, precision):
            losses = step(images, targets)
        finish(losses, optimisers[1])

    return their_step, our_step


def some_objects(images: Tensor, count: int = 8) -> Targets:
    """`count` boxes of 1/16 to 1/2 of the side in each image, with masks that fill them."""
    batch, _, height, width = images.shape
    generator = torch.Generator().manual_seed(0)
    side = torch.rand(batch, count, 2, generator=generator) * 0.4375 + 0.0625
    corner = torch.rand(batch, count, 2, generator=generator) * (1 - side)
    boxes = (torch.cat([corner, corner + side], -1) * torch.tensor([width, height] * 2)).to(images.device)
    labels = torch.randint(0, CLASSES, (batch, count), generator=generator).to(images.device)
    x, y = torch.arange(width, device=images.device), torch.arange(height, device=images.device)
    flat = boxes.flatten(0, 1)
    masks = ((x > flat[:, :1]) & (x < flat[:, 2:3]))[:, None] & ((y > flat[:, 1:2]) & (y < flat[:, 3:]))[..., None]
    valid = torch.ones_like(labels, dtype=torch.bool)
    return Targets(boxes, labels, valid, ~valid, masks, torch.arange(batch, device=images.device) * count)


def compare(name: str, options: argparse.Namespace) -> str:
    device = torch.device(options.device)
    precision = choose_precision("auto", device)
    size = FIXED.get(name, options.size)
    theirs, ours = pair(name, size, device)
    images = torch.rand(max(options.batch, options.train_batch), 3, size, size, device=device)
    plain, fast = ready_model(ours, device, "fp32"), ready_model(ours, device, precision)
    one = images[:1]
    calls = [their_prediction(theirs, one), prediction(plain, one, "fp32"), prediction(fast, one, precision)]
    times = turns(calls, options.rounds, device)
    found = len(calls[1]()[0])
    many = images[: options.batch]
    batch = turns([their_prediction(theirs, many), prediction(plain, many, "fp32")], options.rounds, device)
    rest = [min(outside(call, model, device) for _ in range(options.rounds)) for call, model in
            ((calls[0], theirs), (calls[1], plain))]  # fmt: skip
    step = turns([*training(theirs, ours, images[: options.train_batch], precision)], options.rounds, device)
    ratios = [times[0] / times[1], batch[0] / batch[1], times[0] / times[2], rest[0] / rest[1], step[0] / step[1]]
    return f"| {name} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} | {1000 * times[1]:.0f} | {found} |"


def pasting(options: argparse.Namespace) -> float:
    """torchvision's time over ours for 100 masks of 28 x 28 in a 1080p image."""
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    device = torch.device(options.device)
    generator = torch.Generator().manual_seed(0)
    side = torch.rand(100, 2, generator=generator) * torch.tensor([480.0, 270.0]) + 20
    corner = torch.rand(100, 2, generator=generator) * (torch.tensor([1920.0, 1080.0]) - side)
    boxes = torch.cat([corner, corner + side], 1).to(device)
    masks = torch.rand(100, 28, 28, generator=generator).to(device)
    theirs, ours = turns(
        [
            lambda: paste_masks_in_image(masks[:, None], boxes, (1080, 1920)) >= 0.5,
            lambda: paste_masks(masks, boxes, (1080, 1920)),
        ],
        options.rounds,
        device,
    )
    return theirs / ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [*TWO_STAGE, *DENSE_CONVERTERS]
    parser.add_argument("--models", nargs="+", choices=known, default=known)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--train-batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"pasting 100 masks at 1080p: {pasting(options):.1f}", flush=True)
    print("\n| model | plain | batch | default | outside | step | ms | boxes |\n|---|---|---|---|---|---|---|---|")
    for name in options.models:
        print(compare(name, options), flush=True)


if __name__ == "__main__":
    main()
