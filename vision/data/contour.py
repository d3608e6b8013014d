"""Outlines of masks along the edges of their pixels, as polygons that decode to exactly the same mask."""

from __future__ import annotations

import numpy as np

__all__ = ["join_rings", "mask_outlines"]


def mask_outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed outlines of a mask (H, W) bool as (K, 2) x, y integer corners without the last repeated.

    Outer outlines run clockwise on the screen, holes counter-clockwise; pixels that touch at a corner alone belong to
    different outlines, so no outline meets itself.
    """
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for start, end in _directed_edges(mask):
        following.setdefault(start, []).append(end)
    outlines = []
    while following:
        start = next(iter(following))
        outline, place, came = [], start, (0, 0)
        while True:
            outline.append(place)
            ends = following[place]
            if len(ends) > 1 and came != (0, 0):  # a corner of two pixels: turn right, so as to stay on the same one
                right = (place[0] - came[1], place[1] + came[0])
                ends.sort(key=lambda end: end != right)
            end = ends.pop(0)
            if not ends:
                del following[place]
            came = (end[0] - place[0], end[1] - place[1])
            place = end
            if place == start:
                break
        outlines.append(_without_straight_corners(np.array(outline)))
    return outlines


def _directed_edges(mask: np.ndarray) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Unit edges between a pixel of the mask and one outside, with the mask on their right."""
    padded = np.pad(mask.astype(bool), 1)
    inside = padded[1:-1, 1:-1]
    edges = []
    for neighbour, start, end in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # above: along the top, to the right
        (padded[1:-1, 2:], (1, 0), (1, 1)),  # right: downwards
        (padded[2:, 1:-1], (1, 1), (0, 1)),  # below: to the left
        (padded[1:-1, :-2], (0, 1), (0, 0)),  # left: upwards
    ):
        rows, columns = np.nonzero(inside & ~neighbour)
        pixels = np.stack([columns, rows], 1)
        edges += zip(map(tuple, (pixels + start).tolist()), map(tuple, (pixels + end).tolist()))
    return edges


def _without_straight_corners(outline: np.ndarray) -> np.ndarray:
    before, after = outline - np.roll(outline, 1, 0), np.roll(outline, -1, 0) - outline
    return outline[(before != after).any(1)]


def join_rings(rings: list[np.ndarray]) -> np.ndarray:
    """One ring (K, 2) through all rings: out along a line to each from the first, around it, and back on the same line.

    The lines are run through twice and so enclose nothing: an even-odd fill gives the rings' own mask, holes included.
    """
    home = rings[0][:1]
    parts = [rings[0], home]
    for ring in rings[1:]:
        parts += [ring, ring[:1], home]
    return np.concatenate(parts[:-1] if len(rings) == 1 else parts)
