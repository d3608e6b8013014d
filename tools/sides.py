"""Two sides of a comparison, each in a process of its own, measured by turns."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from vision.engine.malloc import reuse_freed_memory

__all__ = ["Jobs", "add_options", "clock", "race"]


@dataclass
class Jobs:
    """What a side can be asked to run, by name, and what it has to say about itself."""

    calls: dict[str, Callable[[], object]]
    facts: dict[str, Any] = field(default_factory=dict)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `race` reads."""
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--plain-malloc",
        action="store_true",
        help="our side does not keep freed memory either, which the command `vision` does (CPU)",
    )


def race(
    theirs: Callable[..., Jobs],
    ours: Callable[..., Jobs],
    what: str,
    options: argparse.Namespace,
    pairs: list[tuple[str, str]],
) -> tuple[list[tuple[float, float]], dict[str, Any]]:
    """Least seconds of each pair of jobs (their name, our name), and what our side says about itself.

    `theirs(what, options)` and `ours(what, options)` set the sides up in fresh processes: theirs allocates memory as a
    program that imports the library does, ours as the command `vision`. On a CPU seconds are those of the processor,
    all threads added up; on a GPU wall time. The first round warms up and does not count.
    """
    sides = [_Side(theirs, what, options, False), _Side(ours, what, options, not options.plain_malloc)]
    try:
        facts = [side.answer() for side in sides][1]
        best = []
        for names in pairs:
            seconds = [[side.ask(name) for side, name in zip(sides, names)] for _ in range(options.rounds + 1)]
            best.append(tuple(min(column) for column in zip(*seconds[1:])))
    finally:
        for side in sides:
            side.end()
    return best, facts


class _Side:
    def __init__(self, build: Callable[..., Jobs], what: str, options: argparse.Namespace, keep_memory: bool):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, build, what, options, keep_memory), daemon=True)
        self.process.start()
        other.close()

    def answer(self) -> Any:
        return self.pipe.recv()  # EOFError: the process has died, with its traceback on stderr

    def ask(self, name: str) -> float:
        self.pipe.send(name)
        return self.answer()

    def end(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def _serve(
    pipe: Connection, build: Callable[..., Jobs], what: str, options: argparse.Namespace, keep_memory: bool
) -> None:
    if keep_memory:
        reuse_freed_memory()
    torch.set_num_threads(options.threads)
    jobs = build(what, options)
    pipe.send(jobs.facts)
    while True:
        try:
            name = pipe.recv()
        except EOFError:
            return
        pipe.send(_seconds(jobs.calls[name], torch.device(options.device)))


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of one call; a call that returns a number has measured itself."""
    start = clock(device)
    found = call()
    spent = clock(device) - start
    return found if isinstance(found, float) else spent


def clock(device: torch.device) -> float:
    """Seconds of the processor, or on a GPU, once its work is done, of the wall."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
