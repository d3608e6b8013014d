"""One thread that fetches ahead, and one that writes behind, so that the model does not wait for files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["Behind", "ahead"]

Item = TypeVar("Item")
_COUNT = 4  # items that wait, which bounds the memory


def ahead(items: Iterable[Item], count: int = _COUNT) -> Iterator[Item]:
    """`items` in their order, fetched by a thread, up to `count` before they are asked for; an error comes in its turn.

    Close it (`contextlib.closing`) before what `items` reads from is closed.
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, iterator, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, iterator, end))
            yield item


class Behind:
    """`later(function, *arguments)`: calls by a thread, in their order, of which up to `count` wait.

    An error of one is raised by a later call, by `wait` or at the end of the `with` block, and ends it.
    """

    def __init__(self, count: int = _COUNT):
        self._count = count
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future] = deque()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._waiting.append(self._thread.submit(function, *arguments))
        if len(self._waiting) > self._count:
            self._waiting.popleft().result()

    def wait(self) -> None:
        """Returns when all calls so far are done."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown(cancel_futures=True)
