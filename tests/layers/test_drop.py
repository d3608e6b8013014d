"""Stochastic depth in the CSP blocks of YOLO; the other drops are tested where they regularise a training."""

import pytest
import torch

from vision.backbones import build_backbone
from vision.layers.csp import Bottleneck
from vision.layers.drop import add_stochastic_depth


def test_a_bottleneck_without_its_branch_is_its_shortcut():
    block = Bottleneck(8).train()
    images = torch.randn(64, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    add_stochastic_depth(torch.nn.ModuleList([Bottleneck(8), block]), 0.5)  # the last of two: with probability 0.5
    torch.manual_seed(0)
    same = (block(images) == images).flatten(1).all(1)
    assert same.float().mean().item() == pytest.approx(0.5, abs=0.2)
    with pytest.raises(ValueError, match="Bottleneck has no residual branches"):
        add_stochastic_depth(Bottleneck(8, shortcut=False), 0.5)


def test_the_csp_backbone_takes_a_rate_and_still_compiles_and_exports():
    torch.manual_seed(0)
    backbone, plain = build_backbone("csp_n", drop_path=0.4), build_backbone("csp_n").eval()
    rates = [block.drop_path.p for block in backbone.modules() if isinstance(block, Bottleneck)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])  # 2 + 2 + 1 bottlenecks
    plain.load_state_dict(backbone.eval().state_dict(), strict=True)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = plain(images)[-1]
        assert torch.equal(backbone(images)[-1], expected)
        assert torch.equal(torch.export.export(backbone, (images,)).module()(images)[-1], expected)
        compiled = torch.compile(backbone.train(), backend="aot_eager")
        assert compiled(images)[-1].shape == expected.shape
