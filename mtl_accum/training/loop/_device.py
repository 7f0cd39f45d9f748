"""Which device to run on, and moving a batch there."""

from __future__ import annotations

import logging
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from mtl_accum._torch_pytree import tree_map_only
from mtl_accum.memory import driver_version

__all__ = ["alone_on", "describe", "deterministic", "resolve", "to_device"]

_LOG = logging.getLogger(__name__)
_SILENT_SECONDS = 1.0  # of a wait


def resolve(name: str) -> torch.device:
    """The device of that name: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1".

    Raises:
        ValueError: there is no such device here.
    """
    if not isinstance(name, str):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, found {name!r}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, found {name!r}")
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    index = device.index or 0
    if index >= count:
        raise ValueError(f"device={name}: expected a CUDA device, found {count or 'none'} here; use device=cpu")
    return torch.device("cuda", index)


def describe(device: torch.device) -> dict[str, Any]:
    """What a report says about a device."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "type": "cuda",
            "name": properties.name,
            "total_bytes": properties.total_memory,
            "driver": driver_version(),
        }
    return {"type": "cpu", "name": _cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def deterministic(wanted: bool) -> None:
    """Have operations that are not deterministic raise, for the whole process; or put that back."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS starts
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = False if wanted else torch.backends.cudnn.benchmark


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor on the device; copies from page-locked memory run beside what the device does."""
    if type(batch) is dict:  # most are, and a container of any kind takes ten times as long
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, Tensor):
        return _moved(batch, device)
    return tree_map_only(Tensor, lambda tensor: _moved(tensor, device), batch)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=device.type == "cuda")


@contextmanager
def alone_on(device: torch.device) -> Iterator[None]:
    """Wait until no other process of this user measures on the device: jobs of a sweep may run side by side.

    A wait of more than a second is a line in the log.
    """
    who = os.getuid() if hasattr(os, "getuid") else os.getlogin()
    path = Path(tempfile.gettempdir()) / f"mtl_accum-{who}-{str(device).replace(':', '-')}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_SILENT_SECONDS)
    except Timeout:
        _LOG.warning("another process is measuring on %s: waiting for it to release %s", device, path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
