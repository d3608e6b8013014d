"""Weights with everything that is needed to use them: model name and arguments, class names, preprocessing, metric.

`best.safetensors` carries them in its header, `last.pt` (the state of a training run) under the key "header". Both
are read without executing anything that the file contains: a pickle with code in it is refused.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vision.data.resize import Preprocess
from vision.engine.files import write_file
from vision.engine.public import download, is_backbone, public_checkpoint, public_weights, weights_folders
from vision.models import MODELS, VisionModel, build_model
from vision.pretrained.torchvision_backbones import start_backbones
from vision.structures import ClassMap

__all__ = ["Transfer", "header_of", "load", "read_state", "read_weights", "save", "transfer", "weights_file"]

FORMAT = "vision-suite/1"
# how a file begins that PyTorch wrote before 1.6, as torchvision's older ones are: the pickle of a fixed number
_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


def header_of(model: VisionModel, preprocess: Preprocess | None = None, metric: dict | None = None) -> dict[str, Any]:
    """What a checkpoint of `model` carries beside its tensors; JSON-able. `preprocess` defaults to the model's own."""
    preprocess = preprocess or getattr(model, "preprocess", None)
    return {
        "format": FORMAT,
        "model": dict(model.arguments),
        "classes": model.classes.to_dict(),
        "preprocess": preprocess.to_dict() if preprocess else None,
        "metric": metric or {},
    }


def save(
    model: VisionModel,
    path: str | Path,
    *,
    preprocess: Preprocess | None = None,
    metric: dict | None = None,
    half: bool = False,
) -> Path:
    """Writes `model` as safetensors with its header and returns the path; whole or not at all.

    `half` stores floating-point tensors in float16, where their values fit into it (they come back as float32). OSError
    when it cannot be written.
    """
    from safetensors.torch import save as to_bytes

    path = Path(path)
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu()
        if half and value.is_floating_point() and value.half().isfinite().all():
            value = value.half()
        tensors[name] = value.clone(memory_format=torch.contiguous_format)  # tied weights must not share memory
    header = {key: json.dumps(value) for key, value in header_of(model, preprocess, metric).items()}
    content = to_bytes(tensors, metadata=header)
    write_file(path, lambda file: file.write(content))
    return path


def weights_file(weights: str | Path) -> Path:
    """The file that `weights` names: a path, a run folder or shipped weights; else ValueError."""
    path = Path(weights)
    if path.is_file():
        return path
    if path.is_dir() and (path / "best.safetensors").is_file():
        return path / "best.safetensors"
    shipped = _shipped_weights()
    if str(weights) in shipped:
        return shipped[str(weights)]
    if (path / "last.pt").is_file():
        raise ValueError(
            f"weights {str(weights)!r}: a run without a validation so far, so that it has no best.safetensors; its "
            f"latest state is {path / 'last.pt'}"
        )
    known = ", ".join([*sorted(shipped), *public_weights()])
    raise ValueError(
        f"weights {str(weights)!r}: no such file; give a .safetensors file, a last.pt, a run folder or one of: {known}"
    )


def _shipped_weights() -> dict[str, Path]:
    return {path.stem: path for folder in weights_folders() for path in folder.glob("*.safetensors")}


def read_weights(weights: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, header) of a checkpoint file. ValueError when it is not one of ours, or holds code.

    The name of a public checkpoint is downloaded where it is not in the cache, and converted.
    """
    tensors, header = _read(weights)
    if header is None:
        raise ValueError(
            f"{weights}: tensors without a header, as of a classification network; no model of this package can be "
            f"made of them. They can start one's backbone: vision train --model NAME --weights {weights}"
        )
    return tensors, header


def _read(weights: str | Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """As `read_weights`; the header is None where there are tensors alone, a foreign state dict."""
    if str(weights) in public_weights() and not Path(weights).exists():
        if is_backbone(str(weights)):
            return read_state(download(str(weights))), None
        model, header = public_checkpoint(str(weights))
        return model.state_dict(), header
    path = weights_file(weights)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    state = read_state(path)
    if state and all(isinstance(value, Tensor) for value in state.values()):
        return state, None
    if "header" not in state or "model" not in state:
        raise ValueError(f"{path}: holds no training state of this package (keys: {', '.join(map(str, state))[:200]})")
    return state.get("ema") or state["model"], state["header"]


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); is it complete?") from None
    if "model" not in header:
        raise ValueError(f"{path}: its header does not name a model; it was not written by this package")
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    return tensors, {key: json.loads(value) for key, value in header.items()}


def read_state(path: Path) -> dict[str, Any]:
    """The content of a `.pt` or `.pth` file, read with `weights_only=True`; ValueError for a pickle with code."""
    path = Path(path)
    with open(path, "rb") as file:
        legacy = file.read(len(_LEGACY)) == _LEGACY
    if not legacy and not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path}: refused. It is not a safetensors file and not a checkpoint of this package; a pickle can run "
            "any code and is never opened. Convert it to .safetensors where you trust it"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: refused, it holds more than tensors and plain values ({reason})") from None
    except (RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{path}: not a readable checkpoint ({str(error).splitlines()[0]})") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}, not a checkpoint of this package")
    return state


def load(
    weights: str | Path,
    *,
    device: str | torch.device = "cpu",
    source: str | None = None,
    classes: ClassMap | Sequence[str] | int | None = None,
) -> VisionModel:
    """The model of a checkpoint, in eval mode on `device`, with `.preprocess` (how its images were prepared).

    `weights`: a `.safetensors` file, a run's `last.pt`, a run folder (its best weights) or the name of shipped weights.
    With `source` a state dict of another library's segmentation model, as "smp:unet:resnet18" (segmentation_models.
    pytorch, any encoder of ours) or "torchvision:fcn_resnet50", whose `classes` are not in the file; `save` writes it
    as one of ours. ValueError when the file is not such a checkpoint, names an unknown model or does not fit it.
    """
    if source is not None:
        return _load_foreign(weights, source, classes).to(device=device, memory_format=torch.channels_last).eval()
    if classes is not None:
        raise ValueError(f"load: classes of {weights} are in the file; only a foreign `source` needs them")
    tensors, header = read_weights(weights)
    arguments = dict(header["model"])
    name = arguments.pop("name", None)
    if name not in MODELS:
        raise ValueError(f"{weights}: was made with model {name!r}, which this version does not know")
    model = build_model(name, ClassMap.from_dict(header["classes"]), **arguments)
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ValueError(
            f"{weights}: its tensors do not fit {name} with {len(model.classes)} classes: "
            + " ".join(str(error).split())[:300]
        ) from None
    if header.get("preprocess"):
        model.preprocess = Preprocess.from_dict(header["preprocess"])
    return model.to(device=device, memory_format=torch.channels_last).eval()


def _load_foreign(weights: str | Path, source: str, classes: ClassMap | Sequence[str] | int | None) -> VisionModel:
    from safetensors.torch import load_file

    from vision.pretrained.segmentation import load_segmentation_state

    if classes is None:
        raise ValueError(f"load: {weights} does not say its classes; give their names, classes=[...]")
    path = weights_file(weights)
    state = load_file(path) if path.suffix == ".safetensors" else read_state(path)
    state = state.get("state_dict", state)
    try:
        return load_segmentation_state(source, ClassMap.of(classes), state)
    except RuntimeError as error:
        raise ValueError(f"{weights}: not weights of {source}: " + " ".join(str(error).split())[:300]) from None


@dataclass(frozen=True)
class Transfer:
    """What came of loading foreign weights: names of tensors loaded, left as initialised, of another shape, unused."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)  # options of the two models, said in words

    @property
    def partial(self) -> bool:
        """Whether the weights are of another variant of the model, so that parts of it start untrained."""
        return bool(self.differing) and bool(self.missing or self.unused)

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded"
        for label, names in (
            ("of another shape (class count?), kept as initialised", self.mismatched),
            ("not in the file, kept as initialised", self.missing),
            ("in the file but not in the model", self.unused),
        ):
            if names:
                text += f"; {len(names)} {label}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
        if self.partial:
            text += f". They are weights of another variant: {'; '.join(self.differing)}"
        return text


def transfer(model: VisionModel, weights: str | Path) -> Transfer:
    """Copies what fits from a checkpoint into `model` for fine-tuning and says what did not.

    Another class count leaves the tensors of the class layers as initialised. ValueError when less than half of the
    model's tensors find their place: then the checkpoint is of another model. A classification network of torchvision
    starts the backbone; ValueError when it is not that backbone's.
    """
    tensors, header = _read(weights)
    own = model.state_dict()
    if header is None:
        loaded = _start_backbones(model, weights, tensors)
        return Transfer(loaded=sorted(loaded), missing=sorted(set(own) - set(loaded)))
    fits = {name: value for name, value in tensors.items() if name in own and value.shape == own[name].shape}
    report = Transfer(
        loaded=sorted(fits),
        missing=sorted(set(own) - set(tensors)),
        mismatched=sorted(name for name in tensors if name in own and name not in fits),
        unused=sorted(set(tensors) - set(own)),
        differing=_differences(header["model"], model.arguments),
    )
    if 2 * len(fits) < len(own):
        raise ValueError(
            f"{weights}: a checkpoint of {header['model'].get('name')!r}; only {len(fits)} of the {len(own)} tensors "
            f"of {model.arguments.get('name')!r} are in it. Choose the same model, or weights that were made with it"
        )
    model.load_state_dict({**own, **fits}, strict=True)
    return report


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Which arguments of two models differ, each with both values."""
    theirs, ours = json.loads(json.dumps([theirs, ours]))  # lists and tuples are alike
    shown = lambda given, key: repr(given[key]) if key in given else "the default"  # noqa: E731
    keys = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    return [f"{key} is {shown(theirs, key)} there, {shown(ours, key)} here" for key in keys]


def _start_backbones(model: VisionModel, weights: str | Path, state: dict[str, Tensor]) -> list[str]:
    name = model.arguments.get("name")
    try:
        return start_backbones(model, state)
    except RuntimeError as error:
        raise ValueError(
            f"{weights}: does not fit the backbone of {name!r}; give the weights of the same network, or choose it by "
            "--model_options.backbone: " + " ".join(str(error).split())[:300]
        ) from None
