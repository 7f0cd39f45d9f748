"""The device of a run: its name, its description, batches on it, and a lock for measurements."""

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

__all__ = ["describe_device", "lock_device", "resolve_device", "set_deterministic", "to_device"]

_LOG = logging.getLogger(__name__)
_SILENT_SECONDS = 1.0  # a wait this long is not logged


def resolve_device(name: str) -> torch.device:
    """Return the device of a name.

    Args:
        name: Name of the device: "cpu", "cuda", "cuda:N", or "auto" for CUDA if available and the CPU otherwise.

    Raises:
        ValueError: The name is not one of these, or the machine has no such device.
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


def describe_device(device: torch.device) -> dict[str, Any]:
    """Return a device's type, name and size, for a report."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "type": "cuda",
            "name": properties.name,
            "total_bytes": properties.total_memory,
            "driver": driver_version(),
        }
    return {"type": "cpu", "name": _cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def set_deterministic(enabled: bool) -> None:
    """Make nondeterministic operations raise in the whole process, or allow them again.

    Args:
        enabled: Whether nondeterministic operations raise.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS starts
    torch.use_deterministic_algorithms(enabled)
    if enabled:
        torch.backends.cudnn.benchmark = False


def to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a batch to a device; copies from page-locked memory overlap with computation.

    Args:
        batch: Any nesting of tensors and other values.
        device: Device to move the tensors to.
    """
    if type(batch) is dict:  # the usual case; tree_map takes ten times as long
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, Tensor):
        return _move(batch, device)
    return tree_map_only(Tensor, lambda tensor: _move(tensor, device), batch)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=device.type == "cuda")


@contextmanager
def lock_device(device: torch.device) -> Iterator[None]:
    """Hold this user's lock on a device during the block: jobs of a sweep may run side by side, and measure in turn.

    A wait of more than a second is logged.

    Args:
        device: Device to measure on.
    """
    user = os.getuid() if hasattr(os, "getuid") else os.getlogin()
    path = Path(tempfile.gettempdir()) / f"mtl_accum-{user}-{str(device).replace(':', '-')}.lock"
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
