"""Targets, losses and decode fit together: the two-stage models learn eight real images by heart."""

import numpy as np
import pytest
import torch

from vision.data import open_dataset
from vision.data.collate import collate
from vision.data.resize import Preprocess
from vision.metrics import DetectionAP
from vision.models import TrainStep, build_model
from vision.structures import Sample

SETTINGS = {
    "per_level": 300, "proposals": 100, "train_per_level": 300, "train_proposals": 150, "rpn_batch": 128,
    "roi_batch": 64, "roi_fraction": 0.25,
}  # fmt: skip
OPTIONS = {
    "backbone": "resnet18",
    "width": 64,
    "hidden": 256,
    "settings": SETTINGS,
    "backbone_options": {"norm": "group", "width": 0.5},
}


def read(folder, size, count=8):
    """The first images with objects, letterboxed to `size`: their batches of four, classes, and targets by image."""
    dataset = open_dataset(folder / "annotations" / "instances_train2017.json", split="train", task="instance")
    chosen = [i for i in range(len(dataset)) if 0 < len(dataset.target(i)) <= 12][:count]
    preprocess = Preprocess((size, size))
    samples = []
    for i in chosen:
        sample = dataset.sample(i, masks=True)
        image, placement, target = preprocess.apply(sample.image, sample.target)
        samples.append((Sample(np.asarray(image), target), placement))
    batches = [collate(samples[start : start + 4]) for start in range(0, len(samples), 4)]
    return batches, dataset.classes, [[sample.target for sample, _ in samples[s : s + 4]] for s in range(0, count, 4)]


def learn(model, batches, steps, rate=1e-3, report=lambda step, losses: None):
    """`steps` steps over the batches in turn, one-cycle."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    step_of = TrainStep(model.train())
    for step in range(steps):
        batch = batches[step % len(batches)]
        losses = step_of(batch.images, batch.targets)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        report(step, losses)


@torch.no_grad()
def score(model, batches, targets, kinds):
    """AP50 of boxes and masks on the same images."""
    metrics = {kind: DetectionAP(model.classes, kind) for kind in kinds}
    model.eval()
    for batch, truth in zip(batches, targets):
        # the truth's masks have the size of the padded image, so the results must too
        frame = torch.tensor(batch.images.shape[-2:]).expand(len(truth), 2)
        found = model.decode(model(batch.images), frame)
        for metric in metrics.values():
            metric.update(found, truth)
    return {kind: metric.compute().to_dict()["AP50"] for kind, metric in metrics.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn", "cascade_rcnn"])
def test_learns_eight_images_by_heart(name, real_data):
    batches, classes, targets = read(real_data("coco256"), 160)
    torch.manual_seed(0)
    model = build_model(name, classes, **OPTIONS).to(memory_format=torch.channels_last)
    learn(model, batches, 200)
    kinds = ("bbox", "segm") if name == "mask_rcnn" else ("bbox",)
    found = score(model, batches, targets, kinds)
    assert found["bbox"] >= 0.9
    assert found.get("segm", 1.0) >= 0.8
