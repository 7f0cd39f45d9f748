"""NVML: what the driver says is used, by this process and on the whole device. The one file that knows pynvml."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

__all__ = ["NvmlReading", "read_nvml"]


@dataclass(frozen=True)
class NvmlReading:
    """One look at a device through NVML; bytes, None where NVML does not say.

    Attributes:
        process_bytes: memory of this process: context, libraries and the allocator's whole pool.
        device_bytes: used memory of the device, all processes.
        caveats: why a figure is missing, and who else is on the device.
    """

    process_bytes: int | None
    device_bytes: int | None
    caveats: tuple[str, ...] = ()


def read_nvml(uuid: str) -> NvmlReading:
    """Ask NVML about one device.

    Args:
        uuid: the device's, with or without "GPU-" or "MIG-" before it. Its index would not do: NVML counts in
            PCI order, torch in the order of CUDA_VISIBLE_DEVICES.
    """
    try:
        import pynvml
    except ImportError:
        return NvmlReading(None, None, ("NVML: the package nvidia-ml-py is not installed",))
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return NvmlReading(None, None, (f"NVML cannot be used: {error}",))
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
        used = _device_bytes(pynvml, handle)
        process, caveats = _process_bytes(pynvml, handle)
        return NvmlReading(process, used, caveats)
    except pynvml.NVMLError as error:
        return NvmlReading(None, None, (f"NVML does not know the device {uuid}: {error}",))
    finally:
        pynvml.nvmlShutdown()


def _device_bytes(pynvml: Any, handle: Any) -> int:
    try:
        info = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
    except (pynvml.NVMLError, AttributeError):  # a driver or a package older than version 2
        info = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return int(info.total - info.free)  # versions disagree whether `used` holds the driver's reserve


def _process_bytes(pynvml: Any, handle: Any) -> tuple[int | None, tuple[str, ...]]:
    try:
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError as error:
        return None, (f"NVML gives no list of processes: {error}",)
    mine = [process for process in running if process.pid == os.getpid()]
    others = sorted(process.pid for process in running if process.pid != os.getpid())
    caveats = (f"other processes on the device: {others}; they are in its used memory",) if others else ()
    if not mine:
        return None, (
            *caveats,
            "NVML does not list this process (a container with process numbers of its own?)",
        )
    if mine[0].usedGpuMemory is None:
        return None, (
            *caveats,
            "NVML does not tell a process's memory here (Windows display driver, WSL or MIG)",
        )
    return int(mine[0].usedGpuMemory), caveats
