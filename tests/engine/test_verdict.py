"""Steps that are skipped on the device, and that the host learns of one step later."""

import pytest
import torch
from torch import nn

import vision
from vision.engine import trainer as trainer_module
from vision.engine.checkpoint import load, read_state
from vision.engine.faults import NonFiniteLoss
from vision.engine.optim import OPTIMIZERS, OptimConfig, build_optimizer
from vision.engine.verdict import Verdict, agreed, put_back_if, step_unless, undone_if

SETTINGS = {"epochs": 3, "val_split": None, "augment": {"flip_horizontal": 0.5}}


def test_put_back_undoes_nan_in_every_type():
    kept = [
        torch.randn(3, 4, 2, 2).contiguous(memory_format=torch.channels_last), torch.tensor(2.5), torch.randn(0),
        torch.randn(5, dtype=torch.float64), torch.randn(4).bfloat16(), torch.tensor([True, False]), torch.arange(3),
    ]  # fmt: skip
    for bad in (True, False):
        tensors = [tensor.clone() for tensor in kept]
        for tensor in tensors:
            tensor.fill_(float("nan") if tensor.is_floating_point() else 1)
        spoilt = [tensor.clone() for tensor in tensors]
        put_back_if(torch.tensor(float(bad)), tensors, kept)
        for tensor, expected in zip(tensors, kept if bad else spoilt):
            assert torch.equal(tensor.nan_to_num(7), expected.nan_to_num(7))


def test_undone_if():
    weight = torch.ones(3)
    for bad, expected in ((True, 1.0), (False, 2.0)):
        with undone_if(torch.tensor(bad), [weight]):
            weight.mul_(2)
        assert weight.tolist() == [expected] * 3


def with_and_without_bad_steps(name, implementation, device):
    """Parameters and state after steps with bad, good, bad, good, good gradients, and after the good ones alone."""
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(4, 3, generator=generator) for _ in range(3)]
    for order in ([None, 0, None, 1, 2], [0, 1, 2]):
        torch.manual_seed(0)
        model = nn.Linear(3, 4).to(device)
        optimizer = build_optimizer(model, OptimConfig(name=name, weight_decay=0.1, implementation=implementation))
        for number in order:
            bad = number is None
            model.weight.grad = (torch.full((4, 3), float("nan")) if bad else gradients[number].clone()).to(device)
            model.bias.grad = model.weight.grad.sum(1)
            step_unless(torch.tensor(float(bad), device=device), optimizer)
        state = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
        yield [*(parameter.detach() for parameter in model.parameters()), *state]


@pytest.mark.parametrize("implementation", ["auto", "foreach"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skipped_step_leaves_no_trace(name, implementation, device):
    results = with_and_without_bad_steps(name, implementation, device)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_bad_batch_on_each_device(tiny, monkeypatch, device):
    broken(monkeypatch, lambda call: call == 3)
    result = vision.train(**tiny(**{**SETTINGS, "device": str(device), "precision": "bf16"}))
    assert [path.name for path in (result.folder / "faults").iterdir()] == ["step0000002_rank0.pt"]
    state = last(result.folder)
    assert (result.steps, state["ema_updates"]) == (6, 5)
    assert all(value.isfinite().all() for part in ("model", "ema") for value in state[part].values())


def test_flags():
    flags = agreed(torch.tensor(True), False, torch.tensor(0.0), device=torch.device("cpu"))
    assert Verdict(flags).read() == [True, False, False]


@pytest.fixture
def late(monkeypatch):
    monkeypatch.setattr(trainer_module, "asks_late", lambda device, scaler: True)


def broken(monkeypatch, when):
    """Losses and running statistics are not numbers whenever `when(call)` is true; calls count from 1."""
    calls, original = [0], trainer_module.TrainStep.forward

    def forward(self, images, targets):
        calls[0] += 1
        losses = original(self, images, targets)
        if not when(calls[0]):
            return losses
        for buffer in self.model.buffers():
            if buffer.is_floating_point() and buffer.ndim:
                buffer.data.fill_(float("nan"))
        return {name: value * float("nan") for name, value in losses.items()}

    monkeypatch.setattr(trainer_module.TrainStep, "forward", forward)


def last(folder):
    return read_state(folder / "last.pt")


def test_late_runs_have_the_weights_of_prompt_ones(tiny, monkeypatch):
    prompt = vision.train(**tiny("prompt", **SETTINGS, optim={"name": "rmsprop"}, regularize={"l1": 0.01}))
    monkeypatch.setattr(trainer_module, "asks_late", lambda device, scaler: True)
    late = vision.train(**tiny("late", **SETTINGS, optim={"name": "rmsprop"}, regularize={"l1": 0.01}))
    first, second = last(prompt.folder), last(late.folder)
    for part in ("model", "ema"):
        for name, value in first[part].items():
            if part == "model" or "running" not in name:  # the average meets statistics one batch further on
                assert torch.equal(value, second[part][name]), f"{part} {name}"
    assert first["ema_updates"] == second["ema_updates"] == 6


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
@pytest.mark.parametrize("place", [1, 3, 6])
def test_a_bad_batch_is_kept_named_and_skipped(tiny, monkeypatch, caplog, optimizer, place):
    broken(monkeypatch, lambda call: call == place)
    with caplog.at_level("WARNING", logger="vision"):
        result = vision.train(**tiny(**SETTINGS, optim={"name": optimizer}, regularize={"constraint": "max_norm"}))
    (fault,) = (result.folder / "faults").iterdir()
    assert fault.name == f"step{place - 1:07d}_rank0.pt"
    for name in read_state(fault)["batches"][0]["image_ids"]:
        assert str(name) in caplog.text
    state = last(result.folder)
    assert (result.steps, state["ema_updates"]) == (6, 5)
    for part in ("model", "ema"):
        assert all(value.isfinite().all() for value in state[part].values())
    assert all(value.isfinite().all() for value in load(result.weights).state_dict().values())


@pytest.mark.usefixtures("late")
def test_five_bad_batches_in_a_row_stop_the_run(tiny, monkeypatch):
    broken(monkeypatch, lambda call: call > 4)
    with pytest.raises(NonFiniteLoss, match="5 times in a row"):
        vision.train(**tiny(epochs=9, val_split=None))


@pytest.mark.usefixtures("late")
def test_resume_is_exact(tiny):
    settings = {**SETTINGS, "epochs": 4, "swa": {"start": 0.25, "every": 1}}
    whole = vision.train(**tiny("whole", **settings))
    parts = vision.train(**tiny("parts", **settings, stop_after_epochs=2))
    parts = vision.train(out=str(parts.folder), resume=True)
    first, second = last(whole.folder), last(parts.folder)
    for part in ("model", "ema", "swa"):
        values = [state[part]["module"] if part == "swa" else state[part] for state in (first, second)]
        assert all(torch.equal(value, values[1][name]) for name, value in values[0].items()), part
