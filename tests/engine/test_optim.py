"""Optimisers reach minima, groups are what they should be, and a saved state continues to the bit."""

import copy

import pytest
import torch
from torch import nn

from vision.engine.optim import LEARNING_RATES, OPTIMIZERS, OptimConfig, build_optimizer, parameter_groups


class Net(nn.Module):
    """A backbone of three blocks and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Module()
        self.backbone.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.backbone.layer = nn.Sequential(nn.Conv2d(4, 4, 3), nn.PReLU(), nn.Conv2d(4, 4, 3))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.backbone.layer(self.backbone.stem(x)))


def train(model, optimizer, steps):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 9, 9, generator=generator)
    wanted = torch.randn(4, 2, 3, 3, generator=generator)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(images) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_lowers_the_loss(name):
    model = Net()
    before = train(model, build_optimizer(model, OptimConfig(name=name, lr=1e-12)), 1)
    assert train(model, build_optimizer(model, OptimConfig(name=name)), 40) < 0.95 * before
    assert set(LEARNING_RATES) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resume_is_exact(name):
    config = OptimConfig(name=name, layer_decay=0.8)
    whole, halved = Net(), Net()
    train(whole, build_optimizer(whole, config), 6)
    first = build_optimizer(halved, config)
    train(halved, first, 3)
    other = Net()
    other.load_state_dict(halved.state_dict())
    second = build_optimizer(other, config)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(other, second, 3)
    for name_, tensor in whole.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name_]), name_


def test_norms_and_biases_are_not_decayed():
    model = Net()
    groups = parameter_groups(model, OptimConfig(weight_decay=0.1))
    decayed = {id(p) for group in groups if group["weight_decay"] == 0.1 for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim == 4), name
    everything = parameter_groups(model, OptimConfig(weight_decay=0.1, decay_all=True))
    assert [group["weight_decay"] for group in everything] == [0.1]


def test_decay_shrinks_weights_alone():
    # with a gradient of 0, a step of SGD is w (1 - lr * decay)
    model = Net()
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optimizer(model, OptimConfig(name="sgd", lr=0.5, weight_decay=0.1, momentum=0.0))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.head.weight, before["head.weight"] * 0.95)
    assert torch.equal(model.head.bias, before["head.bias"])
    assert torch.equal(model.backbone.stem[1].weight, before["backbone.stem.1.weight"])


def test_backbone_multiplier_and_layer_decay():
    # four blocks with parameters: stem.0, stem.1, layer.0, layer.1, layer.2 of the backbone are five; the head is 1
    model = Net()
    config = OptimConfig(lr=1.0, backbone_multiplier=0.1, layer_decay=0.5)
    optimizer = build_optimizer(model, config)
    rates = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    of = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert of["head.weight"] == 1.0
    assert of["backbone.layer.2.weight"] == pytest.approx(0.1 * 0.5)
    assert of["backbone.layer.0.weight"] == pytest.approx(0.1 * 0.5**3)
    assert of["backbone.stem.0.weight"] == pytest.approx(0.1 * 0.5**5)


def test_frozen_parameters_are_left_out():
    model = Net()
    model.backbone.requires_grad_(False)
    optimizer = build_optimizer(model, OptimConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="freeze less"):
        build_optimizer(model, OptimConfig())


def test_accumulated_gradients_are_the_full_batch():
    # gradient descent on all images, and on their halves accumulated: the same step (no batch norm here)
    torch.manual_seed(0)
    images, wanted = torch.randn(8, 3, 5, 5), torch.randn(8, 2, 5, 5)
    models = [nn.Conv2d(3, 2, 1) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, parts in zip(models, (1, 4)):
        optimizer = build_optimizer(model, OptimConfig(name="sgd", lr=0.1))
        for x, y in zip(images.chunk(parts), wanted.chunk(parts)):
            ((model(x) - y).square().mean() / parts).backward()
        optimizer.step()
    torch.testing.assert_close(models[0].weight, models[1].weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "optim.lr = 0.0 is out of range; allowed: more than 0"),
        ({"momentum": 1.0}, "optim.momentum"),
        ({"betas": (0.9, 1.0)}, "optim.betas"),
        ({"layer_decay": 1.5}, "optim.layer_decay"),
        ({"weight_decay": -1.0}, "optim.weight_decay"),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**settings)


def test_unknown_names():
    with pytest.raises(ValueError, match="choose one of: sgd, rmsprop"):
        build_optimizer(Net(), OptimConfig(name="lion"))
    with pytest.raises(ValueError, match="PyTorch has it for"):
        build_optimizer(Net(), OptimConfig(name="rmsprop", implementation="fused"))
