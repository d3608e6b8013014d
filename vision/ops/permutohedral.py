"""Gaussian filtering in many dimensions on the permutohedral lattice (Adams, Baek and Davis, Eurographics 2010)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["PermutohedralLattice"]

CHANNELS = 16  # filtered at a time: of 150 classes the copies would be large


class PermutohedralLattice:
    """Sums over all points weighted by exp(-|f_i - f_j|^2 / 2) of their features: approximately, in time linear in N.

    features (N, d), already divided by the kernel's standard deviations. Each point is spread over the d + 1 corners
    of the simplex around it, the corners are blurred along the lattice's d + 1 directions, and read back. Building
    sorts N (d + 1) keys once; there is no loop over points. ValueError when the features span more cells than int64
    keys can tell apart.
    """

    def __init__(self, features: Tensor):
        if features.ndim != 2 or not features.is_floating_point():
            raise ValueError(
                f"PermutohedralLattice: features {tuple(features.shape)} {features.dtype}; expected (N, d)"
            )
        self.dimensions = features.shape[1]
        keys, self.weights = _simplices(features)  # (N, d + 1, d + 1), (N, d + 1)
        least = keys.flatten(0, 1).amin(0) - self.dimensions - 1  # room for the neighbours of the outermost corners
        spans = keys.flatten(0, 1).amax(0) - least + self.dimensions + 2
        if float(spans[:-1].double().log2().sum()) >= 62:
            raise ValueError("PermutohedralLattice: the features span too many cells; use wider standard deviations")
        # the last coordinate follows from the others: they sum to 0
        radix = torch.cat([spans.new_ones(1), spans[:-2].cumprod(0)])
        codes = ((keys - least)[..., :-1] * radix).sum(-1)  # (N, d + 1)
        known, inverse = torch.unique(codes, return_inverse=True)
        self.corners, self.count = inverse, len(known)
        self._neighbours = []
        for axis in range(self.dimensions + 1):
            step = radix.sum()  # +1 in every coordinate, and -d in `axis`
            if axis < self.dimensions:
                step = step - (self.dimensions + 1) * radix[axis]
            self._neighbours.append([_find(known, known + step), _find(known, known - step)])

    def filter(self, values: Tensor) -> Tensor:
        """values (N, C) -> the weighted sums (N, C), each point's own value included."""
        return torch.cat([self._filter_few(part.contiguous()) for part in values.split(CHANNELS, 1)], 1)

    def _filter_few(self, values: Tensor) -> Tensor:
        # a last row of zeros stands for the corners that nobody touches
        lattice = values.new_zeros(self.count + 1, values.shape[1])
        corners = list(zip(self.corners.unbind(1), self.weights.unsqueeze(-1).unbind(1)))
        for place, weight in corners:
            lattice.index_add_(0, place, values * weight)
        for before, after in self._neighbours:
            lattice[:-1] += 0.5 * (lattice[before] + lattice[after])
        found = torch.zeros_like(values)
        for place, weight in corners:
            found.addcmul_(lattice[place], weight)
        return found * (1 / (1 + 2.0**-self.dimensions))


def _find(known: Tensor, wanted: Tensor) -> Tensor:
    """Positions of `wanted` in the sorted `known`, len(known) where absent."""
    position = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    return torch.where(known[position] == wanted, position, len(known))


def _simplices(features: Tensor) -> tuple[Tensor, Tensor]:
    """The corners (N, d + 1, d + 1) int64, in lattice coordinates that sum to 0, around each point, and its weights."""
    count, d = features.shape
    index = torch.arange(1, d + 1, device=features.device, dtype=features.dtype)
    scaled = features * ((d + 1) * (2 / 3) ** 0.5 / (index * (index + 1)).sqrt())
    # the hyperplane's coordinates: e_0 = sum of all, e_j = sum of those after j, minus j times the j-th
    after = scaled.flip(1).cumsum(1).flip(1)
    elevated = torch.cat([after[:, :1], torch.cat([after[:, 1:], after.new_zeros(count, 1)], 1) - index * scaled], 1)
    nearest = (elevated / (d + 1)).round() * (d + 1)
    surplus = (nearest.sum(1, keepdim=True) / (d + 1)).round().long()
    residual = elevated - nearest
    rank = residual.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + surplus  # largest residual: rank 0
    nearest = nearest.long() + (d + 1) * ((rank < 0).long() - (rank > d).long())
    rank = rank + (d + 1) * ((rank < 0).long() - (rank > d).long())
    residual = (elevated - nearest) / (d + 1)
    weights = features.new_zeros(count, d + 2)
    weights.scatter_add_(1, d - rank, residual).scatter_add_(1, d + 1 - rank, -residual)
    weights[:, 0] += 1 + weights[:, d + 1]
    remainder = torch.arange(d + 1, device=features.device)[:, None]  # the corner's number
    place = torch.arange(d + 1, device=features.device)
    canonical = torch.where(place <= d - remainder, remainder, remainder - (d + 1))  # (d + 1 corners, d + 1 ranks)
    return nearest[:, None] + canonical[:, rank].transpose(0, 1), weights[:, : d + 1]
