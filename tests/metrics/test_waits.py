"""Updates do not wait for the device, or not more often the more images there are.

On a CPU the operators that read a tensor's values to go on are counted as they are called; on a GPU PyTorch counts.
"""

import contextlib
import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vision.metrics import (
    PanopticMap,
    PanopticQuality,
    SegmentationScore,
    SurfaceDistance,
    boundary_iou,
    confusion,
    panoptic,
)

READING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal", "is_nonzero")


class Waits(TorchDispatchMode):
    """Counts calls whose result has a shape or a Python value that depends on what is in a tensor."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.count += name in READING or by_mask
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def counted(device, waits):
    """Adds to the list `waits` how often the device was waited for."""
    if device.type == "cpu":
        with Waits() as mode:
            yield
        waits.append(mode.count)
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits.append(sum("synchroniz" in str(one.message) for one in caught))


def label_maps(count, device, shape=(24, 32)):
    generator = torch.Generator().manual_seed(count)
    truth = torch.randint(0, 3, (count, *shape), generator=generator)
    return truth.roll(2, -1).to(device), truth.to(device)


def waits_of(update, device):
    waits = []
    for count in (2, 7):
        update(count)  # the first time may prepare something
        with counted(device, waits):
            update(count)
    return waits


def test_the_counter_counts(device):
    values = torch.ones(3, device=device)
    waits = []
    with counted(device, waits):
        values.sum().item()
        values[values > 0]
        values.nonzero()
    assert waits[0] >= 3


@pytest.mark.parametrize("options", [{}, {"per_image": True}, {"score_bins": 64}])
def test_segmentation_score_never_waits(options, device, monkeypatch):
    monkeypatch.setattr(confusion, "_counts_on_host", confusion._counts_by_codes)  # a GPU's way, on a CPU too
    maps = {count: label_maps(count, device) for count in (2, 7)}
    scores = {
        count: (torch.rand(count, 3, 24, 32, device=device),) if "score_bins" in options else () for count in maps
    }
    score = SegmentationScore(3, **options)
    assert waits_of(lambda count: score.update(*maps[count], *scores[count]), device) == [0, 0]


def test_several_labels_never_wait(device, monkeypatch):
    monkeypatch.setattr(confusion, "_counts_on_host", confusion._counts_by_codes)
    masks = {count: [torch.stack([one == 1, one > 0], 1) for one in label_maps(count, device)] for count in (2, 7)}
    score = SegmentationScore(2, multi_label=True)
    assert waits_of(lambda count: score.update(*masks[count]), device) == [0, 0]


def test_boundary_iou_never_waits(device):
    masks = {count: [one == 1 for one in label_maps(count, device)] for count in (2, 7)}
    assert waits_of(lambda count: boundary_iou(*masks[count]), device) == [0, 0]


@pytest.mark.parametrize("shape", [(24, 32), (6, 9, 11)])
def test_surface_distance_waits_as_often_for_many_as_for_few(device, shape):
    maps = {count: label_maps(count, device, shape) for count in (2, 7)}
    metric = SurfaceDistance(3, (1.0,) * len(shape))
    few, many = waits_of(lambda count: metric.update(*maps[count]), device)
    assert few == many <= 8  # listing the places of both outlines, and how many each class has


def test_panoptic_quality_never_waits(device, monkeypatch):
    monkeypatch.setattr(panoptic, "_by_table", panoptic._by_search)  # a GPU's way, on a CPU too

    def maps(count):
        sides = []
        for labels in label_maps(count, device):
            sides.append([PanopticMap(one + 5, torch.tensor([5, 6, 7]), torch.tensor([0, 1, 1])) for one in labels])
        return sides

    cases = {count: maps(count) for count in (2, 7)}
    metric = PanopticQuality(2)
    assert waits_of(lambda count: metric.update(*cases[count]), device) == [0, 0]
