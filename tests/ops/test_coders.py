"""Box coding against torchvision's coder, hand-derived values, and its own inverse."""

import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from vision.ops.coders import MAX_LOG_SCALE, decode_boxes, encode_boxes


def random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 50], 1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_equals_torchvision(weights):
    boxes, references = random_boxes(40, 0), random_boxes(40, 1)
    oracle = BoxCoder(weights)
    torch.testing.assert_close(encode_boxes(boxes, references, weights), oracle.encode([boxes], [references])[0])
    deltas = torch.randn(40, 3 * 4, generator=torch.Generator().manual_seed(2)) * 6
    expected = oracle.decode(deltas, [references])  # (40, 3, 4)
    ours = decode_boxes(deltas.view(40, 3, 4), references[:, None], weights)
    torch.testing.assert_close(ours, expected)


def test_hand_derived():
    # reference centre (5, 10), sides 10, 20; box centre (10, 10), sides 20, 20:
    # dx = 5 / 10, dy = 0, dw = log 2, dh = 0
    deltas = encode_boxes(torch.tensor([0.0, 0, 20, 20]), torch.tensor([0.0, 0, 10, 20]))
    torch.testing.assert_close(deltas, torch.tensor([0.5, 0, math.log(2), 0]))


def test_decode_inverts_encode_and_limits_growth():
    boxes, references = random_boxes(20, 3), random_boxes(20, 4)
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, references), references), boxes, atol=1e-4, rtol=1e-4)
    huge = decode_boxes(torch.tensor([[0.0, 0, 50, 50]]), torch.tensor([[0.0, 0, 1, 1]]))
    assert (huge[0, 2] - huge[0, 0]).item() == pytest.approx(math.exp(MAX_LOG_SCALE), rel=1e-5)


def test_padding_stays_finite_with_gradient():
    references = torch.zeros(3, 4, requires_grad=True)
    encode_boxes(torch.zeros(3, 4), references).sum().backward()
    assert torch.isfinite(references.grad).all()
    assert encode_boxes(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)


def test_half_precision_decodes_in_float32():
    assert decode_boxes(torch.zeros(2, 4, dtype=torch.bfloat16), random_boxes(2, 0)).dtype == torch.float32
