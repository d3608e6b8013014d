"""How much memory this process may still take, in a container or not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import psutil

__all__ = ["free_memory"]

# limit, use, and the part of the use that the system takes back when it is short: of control groups v2 and v1
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(root: Path = Path("/")) -> float:
    """Bytes that are left to this process: what the machine has, or its control groups (a container's) where less.

    `root`: where the file systems proc and sys are; without them the machine's memory counts alone.
    """
    return min([float(psutil.virtual_memory().available), *(_left_in(group) for group in _control_groups(root))])


def _control_groups(root: Path) -> Iterator[Path]:
    """Folders of the groups that limit this process's memory: its own and those around it, as far as they are seen."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        group = top / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def _left_in(group: Path) -> float:
    """Bytes left below the limit of a control group; infinity where it has none."""
    for limit, used, cache in _FILES:
        try:
            most = (group / limit).read_text().strip()
            if most == "max":
                return math.inf
            kinds = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            return float(most) - float((group / used).read_text()) + float(kinds.get(cache, 0))
        except OSError:
            continue
    return math.inf
