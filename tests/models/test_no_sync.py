"""No host sync in a training step: by the operators that would wait for a GPU, and on a GPU by PyTorch's own check."""

from collections import Counter

import pytest
import torch
from small_models import DISTINCT, small_model
from torch.utils._python_dispatch import TorchDispatchMode

import vision.ops.roi
from vision.models import TrainStep
from vision.ops.static_nms import _cluster_keep_mask
from vision.structures import Targets

# what makes the host wait: a value that it reads, a shape that depends on values, numbers that it copies over
WAITING = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_consecutive", "equal"}
WAITING |= {"lift_fresh", "bincount"}


class WaitingCalls(TorchDispatchMode):
    """Counts the operators that would wait for a GPU, indexing by a boolean mask among them."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in arguments[1]
        )
        if name in WAITING or masks:
            self.found[name] += 1
        return function(*arguments, **(options or {}))


def batch_of(device="cpu"):
    """Two images, one of them without an object and with a crowd."""
    images = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    boxes = torch.tensor([[[4.0, 6, 44, 50], [20, 10, 60, 40]], [[0, 0, 9, 9], [0, 0, 0, 0]]])
    valid = torch.tensor([[True, True], [True, False]])
    crowd = torch.tensor([[False, False], [True, False]])
    labels = torch.tensor([[0, 2], [1, -1]])
    masks, semantic = torch.ones(3, 64, 96, dtype=torch.bool), torch.zeros(2, 64, 96, dtype=torch.int64)
    targets = Targets(boxes, labels, valid, crowd, masks, torch.tensor([0, 2]), semantic)
    return images.to(device), targets.to(device)


def step_of(name, device="cpu"):
    return TrainStep(small_model(name).to(device))


def test_the_counter_sees_what_waits():
    values = torch.arange(4.0)
    with WaitingCalls() as calls:
        values.sum().item()
        values[values > 1]
        torch.tensor([1.0, 2.0])
        values.nonzero()
    assert calls.found == {"_local_scalar_dense": 1, "index": 1, "lift_fresh": 1, "nonzero": 1}


@pytest.mark.parametrize("name", DISTINCT)
def test_nothing_in_forward_and_loss_waits(name, monkeypatch):
    monkeypatch.setattr(vision.ops.roi, "keep_mask", _cluster_keep_mask)  # the form that other devices take
    step, (images, targets) = step_of(name), batch_of()
    with WaitingCalls() as calls:
        losses = step(images, targets)
        sum(losses.values()).backward()
    assert calls.found == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", DISTINCT)
def test_a_step_on_a_gpu_does_not_wait(name):
    step, (images, targets) = step_of(name, "cuda"), batch_of("cuda")
    for _ in range(2):  # the first one may set things up
        sum(step(images, targets).values()).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(step(images, targets).values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
