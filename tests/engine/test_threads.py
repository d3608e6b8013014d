"""Fetching ahead and writing behind: the order is kept, few items wait, and errors come out where they belong."""

import contextlib
import threading
import time

import pytest

from vision.engine.threads import Behind, ahead


def test_ahead_keeps_the_order_and_runs_elsewhere():
    places = []

    def items():
        for number in range(50):
            places.append(threading.current_thread())
            yield number

    assert list(ahead(items())) == list(range(50))
    assert threading.main_thread() not in places


def test_ahead_fetches_no_more_than_it_may_and_stops_when_it_is_closed():
    fetched = []

    def items():
        for number in range(100):
            fetched.append(number)
            yield number

    with contextlib.closing(ahead(items(), 3)) as numbers:
        assert next(numbers) == 0
        time.sleep(0.05)
        assert len(fetched) <= 4
    count = len(fetched)
    time.sleep(0.05)
    assert len(fetched) == count <= 4


def test_an_error_of_ahead_comes_in_its_turn():
    def items():
        yield from (1, 2)
        raise ValueError("cut off")

    numbers = ahead(items())
    found = [next(numbers), next(numbers)]
    with pytest.raises(ValueError, match="cut off"):
        next(numbers)
    assert found == [1, 2]


def test_behind_keeps_the_order_and_is_done_at_the_end():
    done = []

    def slow(number):
        time.sleep(0.002 if number % 3 else 0.01)
        done.append(number)

    with Behind() as later:
        for number in range(20):
            later(slow, number)
            assert number - len(done) <= 5
        later.wait()
        assert done == list(range(20))
        later(slow, 20)
    assert done == list(range(21))


@pytest.mark.parametrize("wait", [True, False])
def test_an_error_behind_ends_the_block(wait):
    done = []

    def fail():
        raise ValueError("disk full")

    with pytest.raises(ValueError, match="disk full"), Behind() as later:
        later(fail)
        if wait:
            later.wait()
            done.append("not reached")
    assert done == []


def test_what_waits_is_left_undone_after_an_error_of_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt), Behind() as later:
        for number in range(4):
            later(lambda number: (time.sleep(0.05), done.append(number)), number)
        raise KeyboardInterrupt
    assert len(done) < 4
