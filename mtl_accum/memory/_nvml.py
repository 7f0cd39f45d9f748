"""NVML readings: memory of this process and of the whole device by the driver. Only this file imports pynvml."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["NvmlReading", "NvmlSampler", "driver_version", "read_nvml"]

_INTERVAL = 0.01  # seconds; a reading takes the driver a few microseconds to a millisecond


@dataclass(frozen=True)
class NvmlReading:
    """NVML's reading of a device, in bytes; None for a figure that NVML does not report.

    Attributes:
        process_bytes: Memory of this process: context, libraries and the allocator's whole pool.
        device_bytes: Used memory of the device, all processes.
        caveats: Reasons for missing figures, and other processes on the device.
    """

    process_bytes: int | None
    device_bytes: int | None
    caveats: tuple[str, ...] = ()


def read_nvml(uuid: str) -> NvmlReading:
    """Read the memory of one device once.

    Args:
        uuid: UUID of the device, with or without the prefix "GPU-" or "MIG-". An index is ambiguous: NVML counts in PCI
            order, torch in the order of CUDA_VISIBLE_DEVICES.
    """
    with NvmlSampler(uuid, interval=None) as sampler:
        pass
    return sampler.result()


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver, or None if NVML cannot be used."""
    library = _library({})
    if library is None:
        return None
    try:
        return str(library.nvmlSystemGetDriverVersion())
    except library.NVMLError:
        return None
    finally:
        library.nvmlShutdown()


class NvmlSampler:
    """Sampler of the largest readings of one device inside its block, by a thread that reads every few milliseconds.

    torch's pool never shrinks inside a step, so a reading at the end gives its peak. Memory outside the pool (NCCL,
    other libraries, other processes) may come and go, which takes several readings.

    Args:
        uuid: UUID of the device; see `read_nvml`.
        interval: Seconds between two readings; None reads at the end only.
    """

    def __init__(self, uuid: str, *, interval: float | None = _INTERVAL) -> None:
        self._uuid, self._interval = uuid, interval
        self._process: int | None = None
        self._device: int | None = None
        self._others: set[int] = set()
        self._reasons: dict[str, None] = {}  # an ordered set
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start reading at intervals."""
        self._library = _library(self._reasons)
        self._handle = None
        if self._library is not None:
            with self._as_caveat(f"NVML has no device {self._uuid}"):
                self._handle = _handle(self._library, self._uuid)
        if self._handle is not None and self._interval is not None:
            self._read()
            self._thread = threading.Thread(target=self._run, name="mtl_accum NVML", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the last reading."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
        self._read()
        if self._library is not None:
            with suppress(self._library.NVMLError):
                self._library.nvmlShutdown()

    def result(self) -> NvmlReading:
        """Return the largest figures."""
        others = f"other processes on the device: {sorted(self._others)}; they are in its used memory"
        if self._process is None:
            others += " (one of them may be this process, in a container with its own process numbers)"
        return NvmlReading(self._process, self._device, (*([others] if self._others else []), *self._reasons))

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._read()

    def _read(self) -> None:
        if self._handle is None:
            return
        with self._as_caveat("NVML does not report the device's memory"):
            self._device = max(self._device or 0, _device_bytes(self._library, self._handle))
        with self._as_caveat("NVML gives no list of processes"):
            running = self._library.nvmlDeviceGetComputeRunningProcesses(self._handle)
            self._others |= {process.pid for process in running if process.pid != os.getpid()}
            mine = [process.usedGpuMemory for process in running if process.pid == os.getpid()]
            if not mine:
                self._reasons["NVML does not list this process (a container with its own process numbers?)"] = None
            elif mine[0] is None:  # the driver returned NVML_VALUE_NOT_AVAILABLE
                self._reasons["NVML does not report process memory here (Windows display driver, WSL or MIG)"] = None
            else:
                self._process = max(self._process or 0, int(mine[0]))

    @contextmanager
    def _as_caveat(self, failure: str) -> Iterator[None]:
        """Record an error of NVML inside the block as a caveat."""
        try:
            yield
        except self._library.NVMLError as error:
            self._reasons[f"{failure}: {error}"] = None


def _library(reasons: dict[str, None]) -> Any:
    """Return pynvml, initialised; if it cannot be used, add the reason to `reasons` and return None."""
    try:
        import pynvml
    except ImportError:
        reasons["NVML: the package nvidia-ml-py is not installed"] = None
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        reasons[f"NVML cannot be used: {error}"] = None
        return None
    return pynvml


def _handle(pynvml: Any, uuid: str) -> Any:
    """Return the handle of a device. torch's UUID has no prefix, whether the device is a GPU or a MIG slice."""
    if uuid.startswith(("GPU-", "MIG-")):
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        with suppress(pynvml.NVMLError):
            return pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")
        raise


def _device_bytes(pynvml: Any, handle: Any) -> int:
    try:
        info = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
    except (pynvml.NVMLError, AttributeError):  # a driver or a package older than version 2
        info = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return int(info.total - info.free)  # versions disagree whether `used` holds the driver's reserve
