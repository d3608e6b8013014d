"""Blocks of other libraries, whose names mean other things than ours: folded, fused and given other norms."""

import pytest
import torch

from vision.engine.inference import ready_model
from vision.models import build_model

# an activation behind the shortcut's sum; norms with an activation inside; both
NETWORKS = ["timm:resnet18", "timm:regnety_002", "timm:mobilevit_xxs"]


def segmenter(backbone, **options):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = build_model("semantic_fpn", 3, backbone=backbone, **options)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("backbone", NETWORKS)
def test_ready_for_inference_the_network_is_the_same(backbone, fuse):
    model, images = segmenter(backbone), torch.rand(1, 3, 64, 96)
    ready = ready_model(model, torch.device("cpu"), "fp32", fuse=fuse)
    with torch.inference_mode():
        for _ in range(3):  # layouts of weights are kept from the second time on
            torch.testing.assert_close(ready(images).logits, model(images).logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["group", "frozen_batch"])
@pytest.mark.parametrize("backbone", ["timm:efficientnet_b0", "timm:regnety_002"])
def test_other_norms_leave_the_activations_inside_of_the_old_ones(backbone, norm):
    def activations(model):
        return sum(isinstance(module, torch.nn.ReLU | torch.nn.SiLU) for module in model.backbone.modules())

    assert activations(segmenter(backbone, norms=norm)) == activations(segmenter(backbone))


def test_a_network_of_several_strides_takes_any_size():
    with torch.no_grad():
        assert segmenter("timm:hrnet_w18_small")(torch.rand(1, 3, 40, 72)).logits.shape == (1, 3, 40, 72)
