"""Detectors beside torchvision's same ones, with the same random weights and inputs, as ratios from one run.

    python tools/bench_detectors.py [--models NAME ...] [--size 640] [--batch 8] [--rounds 3] [--device cpu]

Every number is torchvision's time over ours: above 1 ours is faster. Theirs runs as it is built, in float32 and the
default memory layout, ours as `vision predict` does: batch norms folded, channels_last. plain: in float32, batch 1;
batch: the same with --batch images; default: in bf16 where the processor has matrix units for it; outside: what of one
float32 image's time is spent outside of backbone, pyramid and heads, that is in anchors, decoding, NMS, RoIAlign and
pasting masks; step: forward, loss, backward and optimiser with --train-batch images. The first line is pasting 100
instance masks into a 1080p image. On a CPU, processor seconds, the best of a few rounds in which the two take turns;
on a GPU, wall time. SSD's models run at their own size. Each side has a process of its own, theirs as a program that
imports torchvision, ours with freed memory kept, as by the command `vision`; --plain-malloc: allocated as theirs.

The class scores are brought to a spread at which a few hundred boxes pass the thresholds, as in a trained model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from sides import Jobs, add_options, clock, race
from torch import Tensor, nn

from vision.engine.device import DTYPES, autocast, choose_precision
from vision.engine.inference import ready_model
from vision.layers.planar import use_planar_gradients
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


def optimised(parameters: Iterator[nn.Parameter], losses: Callable[[], dict[str, Tensor]]) -> Callable[[], None]:
    """A training step: SGD on all parameters."""
    optimiser = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9)

    def step() -> None:
        sum(losses().values()).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


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


def inputs(name: str, options: argparse.Namespace) -> Tensor:
    size = FIXED.get(name, options.size)
    torch.manual_seed(1)
    return torch.rand(max(options.batch, options.train_batch), 3, size, size, device=options.device)


def their_jobs(name: str, options: argparse.Namespace) -> Jobs:
    device = torch.device(options.device)
    model, _ = pair(name, FIXED.get(name, options.size), device)
    images = inputs(name, options)
    one, some = images[:1], images[: options.train_batch]
    targets = some_objects(some)
    masks = targets.masks.unflatten(0, (len(some), -1)).byte()
    rows = [
        {"boxes": boxes, "labels": labels + 1, "masks": masks}
        for boxes, labels, masks in zip(targets.boxes, targets.labels, masks)
    ]
    predict = their_prediction(model, one)
    step = optimised(model.parameters(), lambda: model.train()(list(some), rows))
    batch = their_prediction(model, images[: options.batch])
    return Jobs({"one": predict, "batch": batch, "outside": lambda: outside(predict, model, device), "step": step})


def our_jobs(name: str, options: argparse.Namespace) -> Jobs:
    device = torch.device(options.device)
    precision = choose_precision("auto", device)
    _, model = pair(name, FIXED.get(name, options.size), device)
    images = inputs(name, options)
    one, some = images[:1], images[: options.train_batch]
    plain, fast = ready_model(model, device, "fp32"), ready_model(model, device, precision)
    use_planar_gradients(model, device, DTYPES[precision])  # as `vision train` does
    train_step, targets = TrainStep(model).train(), some_objects(some)

    def losses() -> dict[str, Tensor]:
        with autocast(device, precision):
            return train_step(some, targets)

    predict = prediction(plain, one, "fp32")
    calls = {
        "one": predict,
        "batch": prediction(plain, images[: options.batch], "fp32"),
        "default": prediction(fast, one, precision),
        "outside": lambda: outside(predict, plain, device),
        "step": optimised(model.parameters(), losses),
    }
    return Jobs(calls, {"found": len(predict()[0])})


def compare(name: str, options: argparse.Namespace) -> str:
    names = [("one", "one"), ("batch", "batch"), ("one", "default"), ("outside", "outside"), ("step", "step")]
    times, facts = race(their_jobs, our_jobs, name, options, names)
    ratios = " | ".join(f"{theirs / ours:.2f}" for theirs, ours in times)
    return f"| {name} | {ratios} | {1000 * times[0][1]:.0f} | {facts['found']} |"


PASTED = (1080, 1920)


def pasted(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """100 masks of 28 x 28 and their boxes in a 1080p image."""
    generator = torch.Generator().manual_seed(0)
    side = torch.rand(100, 2, generator=generator) * torch.tensor([480.0, 270.0]) + 20
    corner = torch.rand(100, 2, generator=generator) * (torch.tensor([1920.0, 1080.0]) - side)
    masks = torch.rand(100, 28, 28, generator=generator)
    return masks.to(options.device), torch.cat([corner, corner + side], 1).to(options.device)


def their_pasting(_: str, options: argparse.Namespace) -> Jobs:
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    masks, boxes = pasted(options)
    return Jobs({"paste": lambda: paste_masks_in_image(masks[:, None], boxes, PASTED) >= 0.5})


def our_pasting(_: str, options: argparse.Namespace) -> Jobs:
    masks, boxes = pasted(options)
    return Jobs({"paste": lambda: paste_masks(masks, boxes, PASTED)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [*TWO_STAGE, *DENSE_CONVERTERS]
    parser.add_argument("--models", nargs="+", choices=known, default=known)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--train-batch", type=int, default=4)
    add_options(parser)
    options = parser.parse_args()
    [(theirs, ours)], _ = race(their_pasting, our_pasting, "", options, [("paste", "paste")])
    print(f"pasting 100 masks at 1080p: {theirs / ours:.1f}", flush=True)
    print("\n| model | plain | batch | default | outside | step | ms | boxes |\n|---|---|---|---|---|---|---|---|")
    for name in options.models:
        print(compare(name, options), flush=True)


if __name__ == "__main__":
    main()
