"""Memory that is left: the machine's, or a container's where that is less."""

from types import SimpleNamespace

import psutil
import pytest

from vision.data.memory import free_memory

MACHINE = 10_000.0


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A root without files on a machine with 10,000 bytes available; `write(path, text)` adds one."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=MACHINE))

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return tmp_path, write


def test_a_system_without_proc(machine):
    assert free_memory(machine[0]) == MACHINE


@pytest.mark.parametrize("folder", ["", "pod/", "pod/box/"])  # a limit on the group itself or on one around it
def test_version_2(machine, folder):
    root, write = machine
    write("proc/self/cgroup", "0::/pod/box\n")
    write("sys/fs/cgroup/pod/box/memory.max", "max\n")
    write(f"sys/fs/cgroup/{folder}memory.max", "5000\n")
    write(f"sys/fs/cgroup/{folder}memory.current", "3000\n")
    write(f"sys/fs/cgroup/{folder}memory.stat", "anon 2000\ninactive_file 400\n")
    assert free_memory(root) == 5000 - 3000 + 400  # the file cache is given back when memory is short


def test_version_1_whose_group_is_out_of_sight(machine):
    root, write = machine
    write("proc/self/cgroup", "4:cpu,memory:/docker/1234\n3:cpuset:/\n0::/\n")
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000\n")
    write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000\n")
    write("sys/fs/cgroup/memory/memory.stat", "cache 500\ntotal_inactive_file 100\n")
    assert free_memory(root) == 4100
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")  # none, in version 1
    assert free_memory(root) == MACHINE


def test_this_machine():
    assert free_memory() > 1e6
