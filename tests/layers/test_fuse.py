"""Convolutions with their activations in one pass beside the two one after the other."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from vision.backbones import build_backbone
from vision.layers.activation import build_activation
from vision.layers.context import AtrousConv
from vision.layers.conv import ConvNormAct
from vision.layers.fold import fold_batch_norms
from vision.layers.fuse import ATTRIBUTES, FusedConv2d, FusedSum, can_fuse, fuse_convolutions

CPU = torch.device("cpu")


def skip_unless_fused(dtype):
    if not can_fuse(CPU, dtype):
        pytest.skip(f"this build of PyTorch fuses no convolutions in {dtype}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu", "silu", "hswish", "gelu"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_fused_is_convolution_then_activation(activation, groups, dtype):
    skip_unless_fused(dtype)
    torch.manual_seed(0)
    block = ConvNormAct(8, 16, 3, 2, groups=groups, norm=None, activation=activation, bias=groups == 2)
    block[0].weight.data.mul_(6)  # so that values beyond 6 are there
    x = torch.randn(2, 8, 13, 10)
    expected = block(x)
    block = block.to(dtype).requires_grad_(False)
    fuse_convolutions(block)
    assert isinstance(block[0], FusedConv2d) and isinstance(block[1], nn.Identity)
    with torch.inference_mode():
        found = block(x)
    assert found.dtype == dtype
    relative, absolute = (1e-4, 1e-4) if dtype == torch.float32 else (0.02, 0.06)
    torch.testing.assert_close(found.float(), expected, rtol=relative, atol=absolute)


def test_every_activation_that_can_be_is_known():
    assert {type(build_activation(name)) for name in ("relu", "relu6", "leaky_relu", "silu", "hswish", "gelu")} == set(
        ATTRIBUTES
    )
    assert type(build_activation("prelu")) not in ATTRIBUTES  # its slope is learnt


def test_what_does_more_than_its_weights_say_stays():
    class Own(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    network = nn.Sequential(
        Own(3, 4, 3), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding="same"), nn.ReLU(),
        AtrousConv(4, 4, 12, groups=4), nn.ReLU(),  # padded widely: by phases
        AtrousConv(4, 4, 2), nn.ReLU(),
    )  # fmt: skip
    fuse_convolutions(network)
    assert not any(isinstance(module, FusedConv2d) for module in network.modules())


def test_convolutions_that_something_else_follows_stay_alone():
    skip_unless_fused(torch.float32)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.Sigmoid(), nn.Conv2d(4, 2, 1)
    )
    network = network.eval().requires_grad_(False)
    x = torch.randn(2, 3, 9, 8)
    expected = network(x)
    fuse_convolutions(network)
    kinds = [FusedConv2d, nn.BatchNorm2d, nn.ReLU, FusedConv2d, nn.Sigmoid, FusedConv2d]
    assert [type(module) for module in network] == kinds
    with torch.inference_mode():
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_laid_out_for_shapes_that_come_again(dtype):
    skip_unless_fused(dtype)
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 32, 3, padding=1).to(dtype).requires_grad_(False)
    fused = FusedConv2d(conv, nn.ReLU())
    tolerance = 1e-4 if dtype == torch.float32 else 0.03
    shapes = [(1, 16, 7, 9), (3, 16, 80, 61), (1, 16, 1, 1)]
    with torch.inference_mode():
        for shape in 3 * shapes:
            x = torch.randn(shape, dtype=dtype).to(memory_format=torch.channels_last)
            torch.testing.assert_close(fused(x), conv(x).relu(), rtol=tolerance, atol=tolerance)
        assert list(fused._layouts) == shapes and None not in fused._layouts.values()
        for side in range(2, 2 + fused.kept):  # others push them out, and come once only
            fused(torch.randn(1, 16, side, side, dtype=dtype))
        assert len(fused._layouts) == fused.kept and set(fused._layouts.values()) == {None}
        fused.double()
        assert not fused._layouts  # they were of another precision


def test_pairs_behind_folded_norms_are_found():
    class Block(nn.Module):
        __module__ = "vision.layers.block"  # one of ours: in others' blocks the names may mean something else

        def __init__(self):
            super().__init__()
            self.conv1, self.bn1, self.act1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
            self.conv2, self.bn2, self.act2 = nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4), nn.ReLU()

        def forward(self, x):
            x = self.act1(self.bn1(self.conv1(x)))
            return self.act2(self.bn2(self.conv2(x)))

    skip_unless_fused(torch.float32)
    block = Block().eval()
    folded = fold_batch_norms(nn.Sequential(block, ConvNormAct(4, 4, groups=4))).requires_grad_(False)
    fuse_convolutions(folded)
    blocks = (folded[0].conv1, folded[0].conv2, folded[1][0])
    assert [type(conv) for conv in blocks] == [FusedConv2d] * 3
    assert [type(conv.activation) for conv in blocks] == [nn.ReLU, type(None), nn.ReLU]  # a group norm stands between
    x = torch.randn(1, 3, 5, 6)
    with torch.inference_mode():
        torch.testing.assert_close(folded[0](x), block(x), rtol=1e-4, atol=1e-5)
        assert folded[0](x[:0]).shape == (0, 4, 5, 6)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet18d", "mobilenet_v2", "mobilenet_v3_small"])
def test_shortcuts_are_added_by_the_convolution_before(name):
    skip_unless_fused(torch.float32)
    torch.manual_seed(0)
    backbone = build_backbone(name, drop_path=0.1).eval()
    for norm in (module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    fused = fold_batch_norms(backbone).requires_grad_(False)
    fuse_convolutions(fused)
    sums = [module for module in fused.modules() if isinstance(module, FusedSum)]
    blocks = [module for module in backbone.modules() if getattr(module, "shortcut", hasattr(module, "downsample"))]
    assert len(sums) == len(blocks) > 0
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        for found, expected in zip(fused(images), backbone(images)):
            scale = float(expected.abs().max())
            torch.testing.assert_close(found / scale, expected / scale, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{"norm": "group"}, {"activation": "silu"}])
def test_blocks_that_do_not_end_in_a_plain_sum_and_relu_stay(options):
    skip_unless_fused(torch.float32)
    backbone = build_backbone("resnet18", **options).eval()
    fused = fold_batch_norms(backbone).requires_grad_(False)
    fuse_convolutions(fused)
    assert not any(isinstance(module, FusedSum) for module in fused.modules())
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for found, expected in zip(fused(images), backbone(images)):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_other_devices_and_precisions_fuse_nothing():
    assert not can_fuse(torch.device("cuda"), torch.float32)
    assert not can_fuse(CPU, torch.float16)


def test_layouts_are_kept_by_several_threads_at_once_and_not_copied():
    skip_unless_fused(torch.float32)
    conv = FusedConv2d(nn.Conv2d(3, 4, 3), None).requires_grad_(False)
    images = [torch.rand(1, 3, 8, 8 + size) for size in range(20)] * 20

    def run(image):
        with torch.inference_mode():
            return conv(image).shape[-1] == image.shape[-1] - 2 and len(conv._layouts) <= conv.kept

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(run, images))
    again = pickle.loads(pickle.dumps(copy.deepcopy(conv)))
    torch.testing.assert_close(again(images[0]), conv(images[0]))
