"""Each regularisation does to a small problem what it is for."""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from vision.backbones import build_backbone
from vision.engine.optim import OptimConfig, build_optimizer
from vision.engine.regularize import RegularizeConfig, Regularizer
from vision.layers.drop import DROPS, DropBlock, build_drop
from vision.layers.noise import GaussianNoise


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return [x, x[..., ::2, ::2]]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = Backbone()
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, images):
        return self.head(self.backbone(images)[0])


class Step(nn.Module):
    """images and wanted outputs -> losses."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, wanted):
        return {"error": (self.model(images) - wanted).square().mean()}


def draw():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 16, 16, generator=generator), torch.randn(4, 2, 16, 16, generator=generator)


def train(settings, steps=30, lr=0.05):
    model = Net()
    optimizer = build_optimizer(model, OptimConfig(name="sgd", lr=lr, weight_decay=0.0, momentum=0.0))
    regularizer = Regularizer(model, RegularizeConfig(**settings))
    step, (images, wanted) = regularizer.wrap(Step(model)).train(), draw()
    for number in range(steps):
        torch.manual_seed(number)
        optimizer.zero_grad()
        with regularizer.noisy_weights():
            losses = step(images, wanted)
            sum(losses.values()).backward()
        regularizer.clip(list(model.parameters()))
        optimizer.step()
        regularizer.after_step(optimizer)
    return model, losses


def test_nothing_asked_for_changes_nothing():
    model = Net()
    step = Step(model)
    regularizer = Regularizer(model, RegularizeConfig())
    assert regularizer.wrap(step) is step
    images, _ = draw()
    assert torch.equal(model.train()(images), Net()(images))


def test_l1_finds_the_lasso():
    # min 0.5 |w - v|^2 + 0.3 |w|_1 has the solution sign(v) max(|v| - 0.3, 0), zeros exact
    wanted = torch.tensor([[2.0, -1.0, 0.2, -0.1, 0.31]])
    model = nn.Linear(5, 1, bias=False)
    optimizer = build_optimizer(model, OptimConfig(name="sgd", lr=0.1, weight_decay=0.0, momentum=0.0))
    regularizer = Regularizer(model, RegularizeConfig(l1=0.3))
    for _ in range(300):
        optimizer.zero_grad()
        (0.5 * (model.weight - wanted).square().sum()).backward()
        optimizer.step()
        regularizer.after_step(optimizer)
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[1.7, -0.7, 0.0, 0.0, 0.01]]), atol=1e-4, rtol=0)
    assert (model.weight == 0).sum() == 2


def test_l1_leaves_biases_alone():
    model, _ = train({"l1": 100.0}, steps=20)
    assert not model.head.weight.any()
    assert model.head.bias.abs().min() > 0


@pytest.mark.parametrize("constraint", ["max_norm", "unit_norm"])
def test_norm_constraints(constraint):
    model, _ = train({"constraint": constraint, "max_norm": 0.3})
    norms = model.head.weight.flatten(1).norm(dim=1)
    if constraint == "unit_norm":
        torch.testing.assert_close(norms, torch.ones(2))
    else:
        free, _ = train({})
        assert norms.max() <= 0.3 + 1e-6 < free.head.weight.flatten(1).norm(dim=1).max()


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_activity_penalty_shrinks_features(kind):
    images, _ = draw()
    plain, losses = train({})
    assert "activity" not in losses
    penalised, losses = train({"activity": 1.0, "activity_kind": kind})
    assert losses["activity"] > 0
    sizes = [model.backbone(images)[0].abs().mean() for model in (plain, penalised)]
    assert sizes[1] < 0.8 * sizes[0]


def test_activity_penalty_is_the_mean_square():
    model = Net()
    step = Regularizer(model, RegularizeConfig(activity=0.5)).wrap(Step(model)).train()
    images, wanted = draw()
    expected = 0.5 * torch.stack([x.square().mean() for x in Net().backbone(images)]).mean()
    torch.testing.assert_close(step(images, wanted)["activity"], expected)
    compiled = torch.compile(step, backend="aot_eager")
    torch.testing.assert_close(compiled(images, wanted)["activity"], expected)


def test_weight_noise_is_gone_after_the_step():
    model = Net()
    regularizer = Regularizer(model, RegularizeConfig(weight_noise=0.1))
    before = copy.deepcopy(model.state_dict())
    with regularizer.noisy_weights():
        shift = model.backbone.conv.weight - before["backbone.conv.weight"]
        assert torch.equal(model.head.bias, before["head.bias"])
    size = before["backbone.conv.weight"].square().mean().sqrt()
    assert shift.std().item() == pytest.approx(0.1 * size.item(), rel=0.2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_weight_noise_finds_flatter_minima():
    # f(w) has a deep narrow minimum at 1 and a shallow wide one at -1; started at the narrow one, noise drives it out
    def cost(w):
        return (-1.0 * torch.exp(-((w - 1) ** 2) / 0.02) - 0.8 * torch.exp(-((w + 1) ** 2) / 2.0)).sum()

    ends = {}
    for noise in (0.0, 0.5):
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 1.0)
        regularizer = Regularizer(model, RegularizeConfig(weight_noise=noise))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        torch.manual_seed(0)
        for _ in range(600):
            optimizer.zero_grad()
            with regularizer.noisy_weights():
                cost(model.weight).backward()
            optimizer.step()
        ends[noise] = model.weight.item()
    assert ends[0.0] == pytest.approx(1.0, abs=0.05)
    assert ends[0.5] < 0.8


def test_input_noise_is_weight_decay_for_a_linear_model():
    # noise of variance s^2 on the inputs of a linear model is ridge regression: weights shrink (Bishop 1995)
    plain, _ = train({}, steps=100)
    noisy, _ = train({"input_noise": 1.0}, steps=100)
    assert noisy.backbone.conv.weight.norm() < plain.backbone.conv.weight.norm()
    images, _ = draw()
    assert torch.equal(noisy.eval()(images), noisy(images))


@pytest.mark.parametrize("kind", DROPS)
def test_dropout_of_features(kind):
    model = Net()
    Regularizer(model, RegularizeConfig(dropout=0.3, dropout_kind=kind, block_size=3))
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    features = model.train().backbone(images)[0]
    dropped = features == 0
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.08)
    if kind == "channel":
        assert (dropped.flatten(2).all(2) == dropped.flatten(2).any(2)).all()
    assert not (model.eval().backbone(images)[0] == 0).any()


@pytest.mark.parametrize(
    ("name", "options"), [("resnet18", {"width": 0.25}), ("mobilenet_v2", {"width": 0.25}), ("csp_n", {})]
)
def test_stochastic_depth_leaves_branches_out(name, options):
    model = Net()
    model.backbone = build_backbone(name, **options)
    keys = list(model.state_dict())
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = model.eval().backbone(images)[-1]
    Regularizer(model, RegularizeConfig(drop_path=0.5))
    layers = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    assert [layer.p for layer in layers] == pytest.approx([0.5 * i / (len(layers) - 1) for i in range(len(layers))])
    assert torch.equal(model.backbone(images)[-1], plain)  # in evaluation nothing is left out
    assert list(model.state_dict()) == keys
    torch.manual_seed(0)
    branch = torch.ones(1000, 1, 1, 1)
    dropped = layers[-1].train()(branch)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.1)  # the rest stands in for what is left out
    model.backbone.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(model.backbone(images)[-1], plain)
    with pytest.raises(ValueError, match="Backbone has no residual branches"):
        Regularizer(Net(), RegularizeConfig(drop_path=0.5))


def test_drop_block_drops_squares_and_keeps_the_mean():
    torch.manual_seed(0)
    dropped = DropBlock(0.1, 3).train()(torch.ones(16, 8, 32, 32))
    holes = (dropped == 0).float()
    # every hole is part of a full 3 x 3 square of holes
    inner = -torch.nn.functional.max_pool2d(-holes, 3, 1)
    covered = torch.nn.functional.max_pool2d(torch.nn.functional.pad(inner, (2, 2, 2, 2)), 3, 1)
    assert torch.equal(covered, holes)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    for size in (1, 2, 4, 5):  # smaller than a square of 7: the largest odd one
        dropped = DropBlock(0.2, 7).train()(torch.ones(512, 8, size, size))
        assert 0.02 < (dropped == 0).float().mean().item() < 0.5
        assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    with pytest.raises(ValueError, match="element, channel, block"):
        build_drop("rows", 0.1)
    with pytest.raises(ValueError, match=r"rate 1.0"):
        build_drop("block", 1.0)


def test_gaussian_noise():
    torch.manual_seed(0)
    layer = GaussianNoise(0.5)
    assert layer.train()(torch.zeros(10000)).std().item() == pytest.approx(0.5, rel=0.05)
    assert not layer.eval()(torch.zeros(10)).any()
    with pytest.raises(ValueError, match=r"std -1"):
        GaussianNoise(-1)


def test_clip_value():
    model = Net()
    images, wanted = draw()
    Step(model)(images, 100 * wanted)["error"].backward()
    assert model.head.weight.grad.abs().max() > 0.01
    Regularizer(model, RegularizeConfig(clip_value=0.01)).clip(list(model.parameters()))
    assert model.head.weight.grad.abs().max() <= 0.01


def test_refusals():
    with pytest.raises(ValueError, match="Linear has no backbone"):
        Regularizer(nn.Linear(2, 2), RegularizeConfig(dropout=0.1))
    with pytest.raises(ValueError, match=r"regularize.l1 = -1 is out of range; allowed: 0 or more"):
        RegularizeConfig(l1=-1)
