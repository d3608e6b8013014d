"""How the benchmarks of metrics measure: seconds of the CPU or of a device, memory at its highest point."""

from __future__ import annotations

import contextlib
import ctypes
import io
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Bench", "Row", "peak_above", "quiet", "seconds"]


@dataclass(frozen=True)
class Row:
    """A job of ours with its seconds, and a peer: what `prepare` returns does the same work on the same data."""

    job: str
    size: str
    ours: float
    peer: str
    prepare: Callable[[], Callable[[], object]]


@dataclass(frozen=True)
class Bench:
    """How to measure: device of our side, share of the full size."""

    device: str = "cpu"
    scale: float = 1.0

    def images(self, full: int, least: int = 4) -> int:
        return max(least, int(full * self.scale))

    def ours(self, work: Callable[[], object], repeat: int = 3) -> float:
        if self.device == "cpu":
            return seconds(work, repeat)
        work()  # kernels are loaded, memory is taken

        def synchronised() -> None:
            work()
            torch.cuda.synchronize()

        torch.cuda.synchronize()
        return seconds(synchronised, repeat, time.perf_counter)


def seconds(work: Callable[[], object], repeat: int = 1, clock: Callable[[], float] = time.process_time) -> float:
    """Least seconds of some runs; what the work prints is dropped."""
    times = []
    for _ in range(repeat):
        begin = clock()
        with quiet():
            work()
        times.append(clock() - begin)
    return min(times)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def peak_above(work: Callable[[], object], device: str = "cpu") -> float:
    """MiB of memory at the highest point of `work` above what is in use before; NaN where the system cannot tell."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    status = Path("/proc/self/status")
    with contextlib.suppress(AttributeError):  # freed memory that the allocator keeps would hide what the work takes
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest point so far
    except OSError:
        return float("nan")

    def kilobytes(name: str) -> int:
        return int(status.read_text().split(f"{name}:")[1].split()[0])

    before = kilobytes("VmRSS")
    with quiet():
        work()
    return (kilobytes("VmHWM") - before) / 1024
