"""Freed memory is used again instead of being asked for anew; in a process of its own, because it cannot be undone."""

import os
import subprocess
import sys

import pytest

MEASURE = """
import random, resource, sys
import torch
from vision.engine.malloc import reuse_freed_memory
done = reuse_freed_memory() if sys.argv[1] == "reuse" else False
random.seed(0)
living = []
for _ in range(600):  # blocks of up to 64 MiB, 20 of them at a time
    living.append(torch.ones(random.choice([1000, 2**16, 2**20, 2**22, 2**24, random.randint(1, 2**24)])))
    if len(living) > 20:
        del living[random.randrange(20)]
used = resource.getrusage(resource.RUSAGE_SELF)
print(int(done), used.ru_minflt, used.ru_maxrss)
"""


def page_faults(*arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_not_returned_to_the_system():
    kept, faults, peak = page_faults("reuse")
    if not kept:
        pytest.skip("another C library than glibc")
    _, faults_before, peak_before = page_faults("leave")
    assert faults < faults_before / 2
    assert peak < 2 * peak_before  # of blocks of random sizes; a training takes 3 to 7 % more


def test_variables_of_the_user_win():
    assert page_faults("reuse", MALLOC_TRIM_THRESHOLD_="131072")[0] == 0
