"""Runs of masks from bitmaps, on their device, and from COCO run-length dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vision.metrics.runs import Runs, concatenate_runs

__all__ = ["runs_from_bitmaps", "runs_from_rle", "runs_of_several"]


def runs_from_bitmaps(masks: Tensor, sizes: Tensor | None = None) -> Runs:
    """Runs of masks (N, H, W), nonzero = foreground, on their device; a few waits for the device in all.

    Only rows with foreground are looked into; they are compared with the row above, eight pixels to a word, and only
    words that differ are taken apart: nothing is transposed. sizes (N, 2): height and width of each mask where the
    bitmaps were padded, with background, to a common size.
    """
    count, height, width = masks.shape
    if sizes is None:
        sizes = torch.tensor([height, width], device=masks.device).expand(count, 2)
    if not masks.numel():
        none = torch.zeros(0, dtype=torch.int32, device=masks.device)
        return Runs(none, none, none, torch.zeros(count, dtype=torch.int64, device=masks.device), sizes)
    solid = (masks if masks.dtype == torch.bool else masks != 0).contiguous()
    mask, row, column = _changes(solid)
    # by mask, then column, then row; tops and bottoms then take turns
    order = ((mask * width + column) * (height + 1) + row).sort().values
    place = torch.div(order, height + 1, rounding_mode="floor")
    edge = (order - place * (height + 1)).int()
    owner = torch.div(place[0::2], width, rounding_mode="floor")
    column = (place[0::2] - owner * width).int()
    return Runs(column, edge[0::2], edge[1::2], torch.bincount(owner, minlength=count), sizes)


def runs_of_several(masks: Sequence[Tensor]) -> Runs:
    """Runs of bitmaps (N, H, W) bool of several images, which may differ in size, at once on their device."""
    height, width = (max(mask.shape[axis] for mask in masks) for axis in (-2, -1))
    canvas = masks[0].new_zeros((sum(map(len, masks)), height, width + -width % 8))
    sizes, start = [], 0
    for mask in masks:
        canvas[start : start + len(mask), : mask.shape[1], : mask.shape[2]] = mask
        start += len(mask)
        sizes += [mask.shape[-2:]] * len(mask)
    return runs_from_bitmaps(canvas, torch.tensor(sizes).reshape(-1, 2).to(canvas.device))


def _changes(solid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mask, row and column of each pixel of (N, H, W) bool that differs from the one above it; above and below the
    image is background."""
    _, height, width = solid.shape
    words = solid.view(torch.uint8 if width % 8 else torch.int64).flatten(0, 1)  # (N * H, W / 8)
    rows = _true_places(words.amax(-1) > 0)  # those with foreground
    lines = words.index_select(0, rows)
    if width % 8:
        lines = torch.nn.functional.pad(lines, (0, -width % 8)).view(torch.int64)
    alone = torch.ones(len(rows) + 1, dtype=torch.bool, device=rows.device)  # the line before is not the row above
    alone[1:-1] = (rows[1:] != rows[:-1] + 1) | (rows[1:] % height == 0)
    change = torch.empty_like(lines)
    torch.bitwise_xor(lines[1:], lines[:-1], out=change[1:])
    top, last = _true_places(alone[:-1]), _true_places(alone[1:])
    change[top] = lines.index_select(0, top)
    line, column = _pixels(change)
    end, end_column = _pixels(lines.index_select(0, last))  # background follows: they change in the next row
    place = rows.index_select(0, torch.cat([line, last.index_select(0, end)]))
    mask = torch.div(place, height, rounding_mode="floor")
    row = place - mask * height
    row[len(line) :] += 1
    return mask, row, torch.cat([column, end_column])


def _pixels(words: Tensor) -> tuple[Tensor, Tensor]:
    """Line and column of each byte that is not 0 in words (L, W / 8) int64."""
    across, words = words.shape[1], words.flatten()
    place = _true_places(words != 0)
    byte = _true_places(words.index_select(0, place).view(torch.uint8) != 0)
    place = place.index_select(0, byte >> 3)
    line = torch.div(place, across, rounding_mode="floor")
    return line, (place - line * across) * 8 + (byte & 7)


def _true_places(flags: Tensor) -> Tensor:
    """Where flags (N,) bool are True; on a CPU by numpy, whose search takes a quarter of the time of torch's."""
    if flags.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(flags.numpy()))
    return flags.nonzero()[:, 0]


def runs_from_rle(masks: Sequence[dict], name: Callable[[int], str] = "mask {}".format) -> Runs:
    """Runs of COCO run-length dicts {"size": [h, w], "counts": list of int, bytes or str}, on the host.

    ValueError where a string is none of COCO's or the lengths do not cover the image, no more and no less; it calls
    mask i `name(i)`.
    """
    if not masks:
        none = torch.zeros(0, dtype=torch.int32)
        return Runs(none, none, none, torch.zeros(0, dtype=torch.int64), torch.zeros((0, 2), dtype=torch.int64))
    counts = [mask["counts"] for mask in masks]
    packed = [isinstance(one, (str, bytes)) for one in counts]
    if any(packed) and not all(packed):
        order = sorted(range(len(masks)), key=packed.__getitem__)
        number = len(masks) - sum(packed)
        parts = [
            runs_from_rle([masks[i] for i in part], lambda place, part=part: name(part[place]))
            for part in (order[:number], order[number:])
        ]
        return concatenate_runs(parts).select(torch.tensor(order).argsort())
    if packed[0]:
        values, number = _decompress(counts, name)
    else:
        values = np.concatenate([np.asarray(one, np.int64) for one in counts])
        number = np.array([len(one) for one in counts])
    gap, length, first = _paired(values, number, packed[0])
    size = np.array([mask["size"] for mask in masks], np.int64).reshape(-1, 2)
    return _runs_of_lengths(gap, length, first, size, name)


def _decompress(counts: list[str | bytes], name: Callable[[int], str]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in COCO's compressed strings, int32, and how many each mask has: base 32, low digits first, 48 added to
    each character, 32 set where more follow; the last digit's 16 is the sign."""
    if set(map(type, counts)) == {str}:
        text = "".join(counts).encode("utf-8", "surrogatepass")
    else:
        text = b"".join(map(_bytes, counts))
    digits = np.frombuffer(text, np.uint8) - np.uint8(48)
    ends = np.cumsum(list(map(len, counts)))
    # each string ends with a last digit, else its number would go on in the next mask
    if len(digits) and (digits.max() > 63 or (digits[ends - 1] >= 32).any()):
        wrong = next(i for i, one in enumerate(counts) if _is_malformed(one))
        raise ValueError(f"{name(wrong)}: counts {counts[wrong]!r:.60}; expected COCO's compressed run lengths")
    stop = np.flatnonzero(digits < 32)
    values = (digits[stop] ^ np.uint8(16)).astype(np.int32) - 16
    longer, place = np.flatnonzero(np.diff(stop, prepend=-1) > 1), 1
    while len(longer):
        values[longer] = (values[longer] << 5) | (digits[stop[longer] - place] & 31)
        place += 1
        longer = longer[digits[stop[longer] - place] >= 32]  # before the first character stands the last: an end
    return values, np.diff(np.searchsorted(stop, ends), prepend=0)


def _bytes(counts: str | bytes) -> bytes:
    return counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts


def _is_malformed(counts: str | bytes) -> bool:
    codes = _bytes(counts)
    return bool(codes) and not (min(codes) >= 48 and max(codes) < 112 and codes[-1] < 80)


def _paired(values: np.ndarray, number: np.ndarray, differences: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Background and foreground lengths (rows,) int32 that take turns, and each mask's first row (N,).

    differences: from the fourth number of a mask on, values are differences to the number two before.
    """
    added = np.where(number == 0, 2, number % 2)
    if added.any():
        values = np.insert(values, np.repeat(np.cumsum(number), added), 0)
    rows = (number + added) // 2
    first = np.cumsum(rows) - rows
    gap, length = values[0::2].copy(), values[1::2].copy()
    if differences:
        head = gap[first]  # the first number starts no chain
        gap[first] = 0
        _sum_within(gap, first)
        _sum_within(length, first)
        gap[first] = head
        length[(first + rows - 1)[added > 0]] = 0
    return gap, length, first


def _sum_within(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Running sums within each mask, in place; the masks' totals."""
    totals = np.add.reduceat(values, first)
    values[first[1:]] -= totals[:-1]
    np.cumsum(values, out=values)
    return totals


def _runs_of_lengths(
    gap: np.ndarray, length: np.ndarray, first: np.ndarray, size: np.ndarray, name: Callable[[int], str]
) -> Runs:
    end = gap + length
    total = _sum_within(end, first)
    pixels = size.prod(1)
    if (total != pixels).any() or gap.min(initial=0) < 0 or length.min(initial=0) < 0:
        wrong = np.flatnonzero((total != pixels) | (np.minimum.reduceat(np.minimum(gap, length), first) < 0))
        raise ValueError(
            f"{name(wrong[0])}: run lengths cover {total[wrong[0]]} pixels, but its size {size[wrong[0]].tolist()} "
            f"has {size[wrong[0]].prod()}; expected counts of background and foreground that take turns, none negative"
        )
    some = length > 0
    count = np.add.reduceat(some, first, dtype=np.int64)
    kept = np.flatnonzero(some)
    start, end = (end - length)[kept], end[kept]
    height = int(size[0, 0]) if (size[:, 0] == size[0, 0]).all() else np.repeat(size[:, 0].astype(np.int32), count)
    column = (start / height).astype(np.int32)  # float64: exact enough to round down right
    top, bottom = start - column * height, end - column * height
    over = np.flatnonzero(bottom > height)
    if len(over):
        column, top, bottom, count = _cut_at_columns(column, top, bottom, count, height, over)
    parts = [torch.from_numpy(part.astype(np.int32)) for part in (column, top, bottom)]
    return Runs(*parts, torch.from_numpy(count), torch.from_numpy(size))


def _cut_at_columns(
    column: np.ndarray,
    top: np.ndarray,
    bottom: np.ndarray,
    count: np.ndarray,
    height: int | np.ndarray,
    over: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """column, top, bottom, count anew, where the few runs `over` go on in the next columns: one run for each."""
    tall = np.broadcast_to(height, len(bottom))[over]
    more = (bottom[over] - 1) // tall  # columns behind the first
    old, new = np.repeat(over, more), np.arange(more.sum())
    step = new - np.repeat(np.cumsum(more) - more, more) + 1
    source = np.insert(np.arange(len(bottom)), old + 1, old)
    column, top, bottom = (one[source] for one in (column, top, bottom))
    new += old + 1  # where the added runs stand
    tall_new = np.repeat(tall, more)
    column[new] += step
    top[new] = 0
    bottom[new] = np.minimum(bottom[new] - step * tall_new, tall_new)
    bottom[over + np.cumsum(more) - more] = tall  # the first column's part ends with the column
    owner = np.searchsorted(np.cumsum(count), over, side="right")
    return column, top, bottom, count + np.bincount(owner, more, len(count)).astype(np.int64)
