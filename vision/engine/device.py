"""Where and in which arithmetic the work runs."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch

__all__ = [
    "DTYPES", "PRECISIONS", "autocast", "build_accelerator", "choose_device", "choose_precision", "choose_workers",
    "cores", "set_threads",
]  # fmt: skip

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """ "auto" is the GPU where there is one. ValueError when a device is asked for that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is not known; expected auto, cpu, cuda or cuda:NUMBER") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but PyTorch sees no CUDA device; use --device cpu or auto")
    return device


def _cpu_is_fast_in_bf16() -> bool:
    """Whether matrix units for bfloat16 are there. Without them bf16 convolutions are emulated, 4x slower than fp32."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def choose_precision(name: str, device: torch.device) -> str:
    """ "fp32", "bf16" or "fp16"; "auto" is bf16 on GPUs and on CPUs with AMX or AVX512-BF16, else fp32."""
    if name not in PRECISIONS:
        raise ValueError(f"precision {name!r} is not known; choose one of: {', '.join(PRECISIONS)}")
    if name != "auto":
        if name == "fp16" and device.type == "cpu":
            raise ValueError("precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and _cpu_is_fast_in_bf16() else "fp32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """The autocast context of a precision from `choose_precision`; none for fp32."""
    return contextlib.nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=DTYPES[precision])


def build_accelerator(device: torch.device) -> Any:
    """accelerate's Accelerator for the processes of this run, in full precision: ours is set by `autocast`."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run of this process may have used a GPU
    # parts of some models are left out of some steps (stages without proposals, auxiliary heads)
    unused = DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no", kwargs_handlers=[unused])


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_workers(workers: int | None, device: torch.device, processes: int) -> int:
    """Processes that load data for each of `processes`: `workers`, or as many as there are cores to spare. On a CPU
    they would only take turns with the network itself, unless cores are plenty."""
    if workers is not None:
        return workers
    share = cores() // processes
    return min(8, share) if device.type != "cpu" else min(4, share // 4)


def set_threads(threads: int | None, device: torch.device, processes: int) -> None:
    """PyTorch's threads: `threads`, or on a CPU its cores shared out among the `processes` of this machine."""
    if threads is None and device.type == "cpu":
        threads = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", processes)))
    if threads:
        torch.set_num_threads(threads)
