"""Convolutions with planar weight gradients beside plain ones."""

import copy

import pytest
import torch
from torch import nn

from vision.engine.inference import ready_model
from vision.layers import planar as planar_module
from vision.layers.fuse import FusedConv2d, can_fuse
from vision.layers.planar import PlanarConv2d, gains_by_planes, use_planar_gradients
from vision.models import build_model

CPU = torch.device("cpu")


@pytest.fixture
def anywhere(monkeypatch):
    """As on a CPU that gains by planes."""
    monkeypatch.setattr(planar_module, "gains_by_planes", lambda *_: True)


def gradients(module, x, slope):
    x = x.clone().requires_grad_()
    found = module(x)
    found.backward(slope)
    return [found.detach(), x.grad, *(parameter.grad for parameter in module.parameters())]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (3, 2, 1, 1), ((1, 5), 1, (0, 2), 1), (3, 1, 2, 2)]
)
def test_the_same_function_and_gradients(anywhere, kernel, stride, padding, dilation, bias):
    torch.manual_seed(0)
    plain = nn.Conv2d(32, 16, kernel, stride, padding, dilation, bias=bias).to(memory_format=torch.channels_last)
    planar = copy.deepcopy(plain)
    use_planar_gradients(planar, CPU, torch.float32)
    assert type(planar) is PlanarConv2d
    x = torch.randn(2, 32, 99, 101).to(memory_format=torch.channels_last)  # 320,000 values an image
    slope = torch.randn_like(plain(x))
    for expected, found in zip(gradients(plain, x, slope), gradients(planar, x, slope), strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(found / scale, expected / scale, rtol=1e-4, atol=1e-5)
        assert found.stride() == expected.stride() or found.ndim < 4 or found.shape[1] == 1


def test_parts_that_are_not_learnt_have_no_gradient(anywhere):
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 4, 3, padding=1)
    use_planar_gradients(conv, CPU, torch.float32)
    x = torch.randn(1, 32, 99, 101)
    assert not conv(x)[0, 0, 0, 0].isnan()
    conv(x).sum().backward()  # the input has none
    weight, conv.weight.grad = conv.weight.grad, None
    conv.bias.requires_grad_(False)
    conv(x).sum().backward()
    torch.testing.assert_close(conv.weight.grad, weight)
    conv.weight.requires_grad_(False)
    slope = torch.autograd.grad(conv(x.requires_grad_()).sum(), x)[0]
    assert slope.abs().sum() > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert conv.requires_grad_(True)(x).dtype == torch.bfloat16


def test_a_model_keeps_its_keys_and_is_folded_and_fused_as_before(anywhere):
    torch.manual_seed(0)
    model = build_model("unet", 3, width=8, depth=2)
    planar = copy.deepcopy(model)
    use_planar_gradients(planar, CPU, torch.float32)
    assert any(isinstance(module, PlanarConv2d) for module in planar.modules())
    assert planar.state_dict().keys() == model.state_dict().keys()
    images = torch.rand(1, 3, 48, 64)
    plain, ready = (ready_model(one, CPU, "fp32") for one in (model, planar))
    if can_fuse(CPU, torch.float32):
        kinds = [sum(isinstance(module, FusedConv2d) for module in one.modules()) for one in (plain, ready)]
        assert kinds[0] == kinds[1] > 0
    with torch.inference_mode():
        assert torch.equal(plain(images).logits, ready(images).logits)


def test_where_it_helps():
    assert not gains_by_planes(CPU, torch.bfloat16)
    assert not gains_by_planes(torch.device("cuda"), torch.float32)
    assert gains_by_planes(CPU, torch.float32) == (torch.backends.cpu.get_cpu_capability() == "AVX2")
    conv = nn.Conv2d(4, 4, 3)
    use_planar_gradients(conv, CPU, torch.bfloat16)
    assert type(conv) is nn.Conv2d


def test_other_convolutions_stay(anywhere):
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding="same"))
    use_planar_gradients(grouped, CPU, torch.float32)
    assert not any(isinstance(module, PlanarConv2d) for module in grouped.modules())
