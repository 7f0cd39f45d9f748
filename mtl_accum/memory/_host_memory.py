"""Free and total memory of the host, limited by the control group and resource limits of the process."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["host_memory"]

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_LIMITED = {"RLIMIT_DATA": "VmData", "RLIMIT_AS": "VmSize"}  # resource limit: line of the status file that it limits


def host_memory() -> tuple[int, int]:
    """Read how much memory this process may still allocate, and its total limit.

    Returns:
        Free and total bytes, by the tightest of machine, control group and resource limits (`ulimit -d`, `ulimit -v`).
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = _kilobytes(_MEMINFO, "MemAvailable")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") if available is None else available
    for limit, used in (*_control_group(), *_resource_limits()):
        if limit < total:
            total, free = limit, min(free, max(0, limit - used))
    return free, total


def _control_group() -> Iterator[tuple[int, int]]:
    limit, used = _text(_CGROUP / "memory.max").strip(), _text(_CGROUP / "memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        yield int(limit), int(used)


def _resource_limits() -> Iterator[tuple[int, int]]:
    if sys.platform != "linux":
        return
    import resource

    for name, line in _LIMITED.items():
        limit, used = resource.getrlimit(getattr(resource, name))[0], _kilobytes(_STATUS, line)
        if limit != resource.RLIM_INFINITY and used is not None:
            yield limit, used


def _kilobytes(path: Path, name: str) -> int | None:
    """Read a line such as "MemAvailable:   123 kB", in bytes."""
    line = re.search(rf"^{name}:\s+(\d+) kB$", _text(path), re.MULTILINE)
    return int(line[1]) * 1024 if line else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
