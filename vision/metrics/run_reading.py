"""Runs of masks from bitmaps, on their device, and from COCO run-length dictionaries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vision.metrics.runs import Runs

__all__ = ["runs_from_bitmaps", "runs_from_rle"]


def runs_from_bitmaps(masks: Tensor) -> Runs:
    """Runs of masks (N, H, W), nonzero = foreground, on their device; one wait for the device in all.

    Rows are compared with the row above, eight pixels to a word, and only words that differ are looked into: nothing
    is transposed. A run ends with its column.
    """
    count, height, width = masks.shape
    size = torch.tensor([height, width], device=masks.device).expand(count, 2)
    if not masks.numel():
        none = torch.zeros(0, dtype=torch.int64, device=masks.device)
        return Runs(none, none, torch.zeros(count, dtype=torch.int64, device=masks.device), size)
    solid = masks if masks.dtype == torch.bool else masks != 0
    solid = torch.nn.functional.pad(solid, (0, -width % 8)).contiguous()
    words = solid.view(torch.int64)  # (N, H, W / 8)
    parts = [_changes(part, height) for part in words.split(max(1, (1 << 18) // (words[0].numel() + 1)))]
    step = max(1, (1 << 18) // (words[0].numel() + 1))
    mask = torch.cat([part[0] + i * step for i, part in enumerate(parts)])
    row, column = (torch.cat([part[i] for part in parts]) for i in (1, 2))
    # by mask, then column, then row; starts and ends then take turns
    order = ((mask * solid.shape[2] + column) * (height + 1) + row).sort().values
    owner = torch.div(order, solid.shape[2] * (height + 1), rounding_mode="floor")[0::2]
    within = order - torch.div(order, height + 1, rounding_mode="floor") * (height + 1)
    column = torch.div(order, height + 1, rounding_mode="floor")[0::2] - owner * solid.shape[2]
    start, end = within[0::2] + column * height, within[1::2] + column * height
    return Runs(start, end, torch.bincount(owner, minlength=count), size)


def _changes(words: Tensor, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mask, row and column of each pixel that differs from the one above it; above and below the image is background.

    words (N, H, W / 8) int64, a byte 0 or 1 for each pixel.
    """
    change = torch.empty((len(words), height + 1, words.shape[2]), dtype=torch.int64, device=words.device)
    change[:, 0], change[:, height] = words[:, 0], words[:, -1]
    torch.bitwise_xor(words[:, 1:], words[:, :-1], out=change[:, 1:height])
    mask, row, word = (change != 0).nonzero(as_tuple=True)  # of booleans much faster than of int64
    entry, byte = change[mask, row, word].view(torch.uint8).view(-1, 8).nonzero(as_tuple=True)
    return mask[entry], row[entry], word[entry] * 8 + byte


def runs_from_rle(masks: Sequence[dict]) -> Runs:
    """Runs of COCO run-length dicts {"size": [h, w], "counts": list of int, bytes or str}, on the host."""
    if not masks:
        none = torch.zeros(0, dtype=torch.int64)
        return Runs(none, none, none, torch.zeros((0, 2), dtype=torch.int64))
    lengths, number = _run_lengths([mask["counts"] for mask in masks])
    first = np.cumsum(number) - number
    ends = np.cumsum(lengths)
    owner = np.repeat(np.arange(len(masks)), number)
    ends -= np.concatenate([[0], ends])[first[owner]]  # pixels of this mask up to each run's end
    foreground = np.flatnonzero(((np.arange(len(lengths)) - first[owner]) % 2 == 1) & (lengths > 0))
    start, end = ends[foreground] - lengths[foreground], ends[foreground]
    count = np.bincount(owner[foreground], minlength=len(masks))
    size = torch.tensor([list(mask["size"]) for mask in masks], dtype=torch.int64)
    return Runs(*(torch.from_numpy(array.astype(np.int64)) for array in (start, end, count)), size)


def _run_lengths(counts: list) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths of all masks one after the other, int64, and how many each mask has."""
    if all(isinstance(one, (str, bytes)) for one in counts):
        return _decompress([one.encode("ascii") if isinstance(one, str) else one for one in counts])
    lists = [_decompress([one.encode() if isinstance(one, str) else one])[0] if isinstance(one, (str, bytes)) else one
             for one in counts]  # fmt: skip
    return np.concatenate([np.asarray(one, np.int64) for one in lists]), np.array([len(one) for one in lists])


def _decompress(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths in COCO's compressed strings: numbers in base 32, low digits first, 48 added to each character, 32
    set where more follow; from the fourth number of a mask on, the difference to the number two before."""
    digits = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)
    if not len(digits):
        return digits.astype(np.int64), np.zeros(len(texts), np.int64)
    stop = np.flatnonzero(digits < 32)
    start = np.concatenate([[0], stop[:-1] + 1])
    width = stop - start + 1
    values = (digits[start] & 31).astype(np.int64)
    longer = np.flatnonzero(width > 1)
    for place in range(1, int(width.max())):
        values[longer] |= (digits[start[longer] + place] & 31).astype(np.int64) << (5 * place)
        longer = longer[width[longer] > place + 1]
    values -= np.where(digits[stop] & 16, np.int64(1) << (5 * width), 0)  # the sign bit of the last digit
    text_ends = np.cumsum([len(text) for text in texts])
    number = np.diff(np.searchsorted(stop, text_ends), prepend=0)
    owner = np.repeat(np.arange(len(texts)), number)
    position = np.arange(len(values)) - (np.cumsum(number) - number)[owner]
    # two columns, each mask from a row of its own: sums down the columns undo the differences
    rows = (number + 1) // 2
    first_row = np.cumsum(rows) - rows
    table = np.zeros((int(rows.sum()) + 1, 2), np.int64)
    row = first_row[owner] + position // 2
    table[row + 1, position % 2] = np.where(position == 0, 0, values)  # the first number starts no chain
    table = table.cumsum(0)
    summed = table[row + 1, position % 2] - table[first_row[owner], position % 2]
    return np.where(position == 0, values, summed), number
