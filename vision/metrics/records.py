"""What a detection metric remembers of the images it has seen: packed detections and ground truths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vision.metrics.overlap import Found, Truth
from vision.metrics.run_reading import runs_from_bitmaps, runs_from_rle, runs_of_several
from vision.metrics.runs import Runs, concatenate_runs
from vision.metrics.sums import gather_states
from vision.structures import Detections, Target

__all__ = ["DetectionRecords"]

WAITING = 1 << 29


class DetectionRecords:
    """Batches as given, packed: detections stay on their device, targets on the host until they are needed.

    Bitmaps become runs, which means to wait for their device: on the host at once, on a GPU for `WAITING` pixels
    together; until then there is a copy of them.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self.image_ids: list[int | str] = []
        self.found: list[dict[str, Any]] = []
        self.truth: list[dict[str, Any]] = []
        self.waiting = 0  # pixels of bitmaps that are not yet runs

    def append(self, detections: Sequence[Detections], targets: Sequence[Target]) -> None:
        if len(detections) != len(targets):
            raise ValueError(f"update: results of {len(detections)} images but targets of {len(targets)}")
        if not detections:
            return
        for place, one in enumerate(detections):
            _check_lengths(place, one)
        if self.kind != "bbox":
            for found, target in zip(detections, targets):
                _check_masks(found, target, self.kind)
        device = detections[0].boxes.device
        owner = torch.repeat_interleave(torch.tensor([len(one.boxes) for one in detections]))
        scores = torch.cat([one.scores for one in detections]).detach()
        boxes = torch.cat([one.boxes for one in detections]).detach().reshape(-1, 4)
        if not _waits(device):
            _check_finite("update: detections[{}]", owner, scores, boxes)
        first = len(self.image_ids)
        self.image_ids += [target.image_id for target in targets]
        numbers = torch.arange(first, first + len(targets))
        self.found.append(
            {
                "image": (first + owner).to(device, non_blocking=True),
                "label": torch.cat([one.labels for one in detections]).long(),
                "score": scores,
                "box": boxes,
                "masks": self._masks([one.masks for one in detections], device),
            }
        )
        counts = [len(target) for target in targets]
        self.truth.append(
            {
                "image": torch.repeat_interleave(numbers, torch.tensor(counts)),
                "label": torch.cat([torch.from_numpy(target.labels) for target in targets]),
                "box": torch.cat([torch.from_numpy(target.boxes) for target in targets]),
                "area": torch.cat([torch.from_numpy(target.area) for target in targets]),
                "crowd": torch.cat([torch.from_numpy(target.crowd) for target in targets]),
                "difficult": torch.cat([torch.from_numpy(target.difficult) for target in targets]),
                "masks": self._masks([target.masks for target in targets], torch.device("cpu")),
            }
        )
        if self.waiting > WAITING:
            self._pack()

    def _masks(self, masks: list, device: torch.device) -> Runs | list[Tensor] | None:
        if self.kind == "bbox":
            return None
        if _waits(device) and all(isinstance(mask, Tensor) for mask in masks):
            self.waiting += sum(mask.numel() for mask in masks)
            return [mask.clone() if mask.dtype == torch.bool else mask != 0 for mask in masks]
        parts = []
        for mask in masks:
            if mask is None or isinstance(mask, (list, tuple)):
                parts.append(runs_from_rle(mask or []).to(device))
            else:
                parts.append(runs_from_bitmaps(torch.as_tensor(mask)))
        return concatenate_runs(parts)

    def _pack(self) -> None:
        """Turn the bitmaps that wait into runs, all at once."""
        parts = [part for part in self.found if isinstance(part["masks"], list)]
        if parts:
            runs = runs_of_several([mask for part in parts for mask in part["masks"]])
            stop = 0
            for part in parts:
                start, stop = stop, stop + sum(map(len, part["masks"]))
                part["masks"] = runs.select(torch.arange(start, stop, device=runs.count.device))
        self.waiting = 0

    def extend(self, other: DetectionRecords) -> None:
        shift = len(self.image_ids)
        self.image_ids += other.image_ids
        self.waiting += other.waiting
        self.found += [{**part, "image": part["image"] + shift} for part in other.found]
        self.truth += [{**part, "image": part["image"] + shift} for part in other.truth]

    def to(self, device: torch.device | str) -> None:
        self._pack()
        self.found = [_moved(part, device) for part in self.found]
        self.truth = [_moved(part, device) for part in self.truth]

    def all_gather(self) -> None:
        self._pack()
        state = (
            self.image_ids,
            [_moved(part, "cpu") for part in self.found],
            [_moved(part, "cpu") for part in self.truth],
        )
        states = gather_states(state)
        device = self.found[0]["box"].device if self.found else torch.device("cpu")
        self.__init__(self.kind)
        for image_ids, found, truth in states:
            part = DetectionRecords(self.kind)
            part.image_ids, part.found, part.truth = image_ids, [_moved(one, device) for one in found], truth
            self.extend(part)

    def flat(self) -> tuple[Found, Truth, int]:
        """All detections and ground truths on the detections' device, images numbered by rising id, their number."""
        self._pack()
        images = len(self.image_ids)
        order = sorted(range(images), key=lambda i: _sort_key(self.image_ids[i]))
        position = torch.empty(images, dtype=torch.int64)
        position[torch.tensor(order, dtype=torch.int64)] = torch.arange(images)
        device = self.found[0]["box"].device if self.found else torch.device("cpu")
        found, truth = _joined(self.found, device), _joined(self.truth, device)
        _check_finite("compute: detections of image {} of all", found["image"], found["score"], found["box"])
        position = position.to(device)
        box = _widths(found["box"])
        if self.kind != "bbox" and not self.found:
            found["masks"] = truth["masks"] = runs_from_rle([]).to(device)
        masks = found["masks"]
        area = masks.area().double() if masks is not None else box[:, 2] * box[:, 3]
        detected = Found(position[found["image"]], found["label"], found["score"].double(), box, area, masks)
        unmatchable = torch.zeros(len(truth["label"]), dtype=torch.bool, device=device)
        actual = Truth(
            position[truth["image"]], truth["label"], _widths(truth["box"]), truth["area"], truth["crowd"], unmatchable,
            truth["difficult"], truth["masks"],
        )  # fmt: skip
        return detected, actual, images


def _waits(device: torch.device) -> bool:
    return device.type != "cpu"


def _check_lengths(place: int, found: Detections) -> None:
    columns = {name: getattr(found, name) for name in ("boxes", "scores", "labels", "masks")}
    lengths = {name: len(column) for name, column in columns.items() if column is not None}
    if len(set(lengths.values())) > 1:
        came = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"update: detections[{place}] has {came}; expected as many of each")


def _check_finite(where: str, owner: Tensor, scores: Tensor, boxes: Tensor) -> None:
    """ValueError for a score or box that is not finite; `where` names its image, owner (D,), in the message."""
    fine = scores.isfinite() & boxes.isfinite().all(1)
    if not fine.all():
        row = int((~fine).nonzero()[0])
        came = f"score {scores[row].item():g} and box {boxes[row].tolist()}"
        raise ValueError(f"{where.format(int(owner[row]))} has {came}; expected finite numbers")


def _check_masks(found: Detections, target: Target, kind: str) -> None:
    for one, name in ((found, "detections"), (target, "objects")):
        if one.masks is None and len(one):
            raise ValueError(
                f"update: kind {kind!r} needs masks, but image {target.image_id} has {name} without (masks is None)"
            )
    sizes = _mask_sizes(found.masks) | _mask_sizes(target.masks)
    if len(sizes) > 1:
        raise ValueError(
            f"update: masks of image {target.image_id} have sizes {sorted(sizes)} (height, width); expected detections "
            "and objects in one frame: resize the detections' masks to the truth's"
        )


def _mask_sizes(masks: Any) -> set[tuple[int, int]]:
    """(height, width) of bitmaps (N, H, W) or of run-length dictionaries; none without masks."""
    if masks is None or not len(masks):
        return set()
    if isinstance(masks, (list, tuple)):
        return {(int(mask["size"][0]), int(mask["size"][1])) for mask in masks}
    return {(int(masks.shape[-2]), int(masks.shape[-1]))}


def _widths(boxes: Tensor) -> Tensor:
    """xyxy in any precision -> x, y, width, height float64."""
    boxes = boxes.double()
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def _sort_key(image_id: int | str) -> tuple[bool, int | str]:
    return isinstance(image_id, str), image_id


def _moved(part: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    return {name: value if value is None else value.to(device) for name, value in part.items()}


_EMPTY = {
    "image": torch.zeros(0, dtype=torch.int64), "label": torch.zeros(0, dtype=torch.int64), "score": torch.zeros(0),
    "box": torch.zeros(0, 4), "area": torch.zeros(0, dtype=torch.float64), "crowd": torch.zeros(0, dtype=torch.bool),
    "difficult": torch.zeros(0, dtype=torch.bool), "masks": None,
}  # fmt: skip


def _joined(parts: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    if not parts:
        return _moved(_EMPTY, device)
    joined = {name: torch.cat([part[name].to(device) for part in parts]) for name in parts[0] if name != "masks"}
    masks = [part["masks"] for part in parts]
    joined["masks"] = None if masks[0] is None else concatenate_runs([mask.to(device) for mask in masks])
    return joined
