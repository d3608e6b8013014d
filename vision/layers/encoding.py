"""A learnt dictionary that summarises a feature map (Deep TEN, arXiv:1612.02844)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Encoding"]


class Encoding(nn.Module):
    """Residuals of all places to `codes` codewords, summed by soft assignment: (B, C, H, W) -> (B, codes, C).

    e_k = sum_i softmax_k(-s_k |x_i - c_k|^2) (x_i - c_k), written as matrix products: nothing of size H W codes C.
    """

    def __init__(self, channels: int, codes: int = 32):
        super().__init__()
        bound = (codes * channels) ** -0.5
        self.codewords = nn.Parameter(torch.empty(codes, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(codes).uniform_(-1, 0))

    def forward(self, x: Tensor) -> Tensor:
        places = x.flatten(2).transpose(1, 2)  # (B, HW, C)
        words = self.codewords
        distance = (places**2).sum(-1, keepdim=True) - 2 * places @ words.T + (words**2).sum(-1)  # (B, HW, K)
        weight = (self.scale * distance).softmax(-1)
        return weight.transpose(1, 2) @ places - weight.sum(1)[..., None] * words  # (B, K, C)
