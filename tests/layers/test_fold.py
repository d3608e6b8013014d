import pytest
import torch
from torch import nn

from vision.backbones import build_backbone
from vision.layers.fold import fold_batch_norms, store_weights
from vision.necks.deconv import Deconvolutions


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vgg16_bn"])
def test_same_outputs_without_batch_norms(name):
    torch.manual_seed(0)
    model = build_backbone(name, levels=(5,))
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    images = torch.rand(2, 3, 64, 64)
    keys = list(model.state_dict())
    folded = fold_batch_norms(model)
    with torch.no_grad():
        (expected,), (found,) = model.eval()(images), folded(images)
        assert torch.allclose(found, expected, atol=1e-4 * expected.abs().max().item(), rtol=1e-4)
    left = [name for name, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert [name for name in left if "downsample" not in name] == []
    assert list(model.state_dict()) == keys  # the original keeps its norms


def test_norms_behind_something_else_stay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))
    assert isinstance(fold_batch_norms(model)[2], nn.BatchNorm2d)


def test_weights_are_kept_in_the_precision_that_they_are_used_in():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Deconvolutions(4, [8], deformable=True)).eval()
    x = torch.rand(1, 3, 12, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = network(x)
        store_weights(network, torch.bfloat16)
        assert torch.equal(network(x), expected)
    # norms, and the offsets of deformable convolutions, keep their digits
    kept = {name for name, value in network.named_parameters() if value.dtype == torch.float32}
    assert {name.rsplit(".", 2)[-2] for name in kept} >= {"1", "offsets"}
    assert network[0].weight.dtype == network[0].bias.dtype == torch.bfloat16
