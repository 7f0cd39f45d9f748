"""NVML: what the driver says is used, by this process and on the whole device. The one file that knows pynvml."""

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
    """What NVML says of a device; bytes, None where it does not say.

    Attributes:
        process_bytes: memory of this process: context, libraries and the allocator's whole pool.
        device_bytes: used memory of the device, all processes.
        caveats: why a figure is missing, and who else is on the device.
    """

    process_bytes: int | None
    device_bytes: int | None
    caveats: tuple[str, ...] = ()


def read_nvml(uuid: str) -> NvmlReading:
    """Ask NVML about one device, once.

    Args:
        uuid: the device's, with or without "GPU-" or "MIG-" before it. Its index would not do: NVML counts in
            PCI order, torch in the order of CUDA_VISIBLE_DEVICES.
    """
    with NvmlSampler(uuid, interval=None) as sampler:
        pass
    return sampler.result()


def driver_version() -> str | None:
    """The version of NVIDIA's driver; None where NVML cannot be used."""
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
    """The largest readings of one device inside a block, from a thread that looks every few milliseconds.

    torch's pool never shrinks inside a step, so one look at the end is its peak; what comes and goes outside it
    (NCCL, other libraries, other processes) takes more looks.

    Args:
        uuid: see `read_nvml`.
        interval: seconds between two looks; None looks at the end only.
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
        """Begin to look again and again."""
        self._library = _library(self._reasons)
        self._handle = None
        if self._library is not None:
            with self._in_words(f"NVML does not know the device {self._uuid}"):
                self._handle = _handle(self._library, self._uuid)
        if self._handle is not None and self._interval is not None:
            self._look()
            self._thread = threading.Thread(target=self._run, name="mtl_accum NVML", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look a last time."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
        self._look()
        if self._library is not None:
            with suppress(self._library.NVMLError):
                self._library.nvmlShutdown()

    def result(self) -> NvmlReading:
        """The largest figures that were seen."""
        others = f"other processes on the device: {sorted(self._others)}; they are in its used memory"
        if self._process is None:
            others += " (one of them may be this one, in a container with process numbers of its own)"
        return NvmlReading(self._process, self._device, (*([others] if self._others else []), *self._reasons))

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._look()

    def _look(self) -> None:
        if self._handle is None:
            return
        with self._in_words("NVML does not tell the device's memory"):
            self._device = max(self._device or 0, _device_bytes(self._library, self._handle))
        with self._in_words("NVML gives no list of processes"):
            running = self._library.nvmlDeviceGetComputeRunningProcesses(self._handle)
            self._others |= {process.pid for process in running if process.pid != os.getpid()}
            mine = [process.usedGpuMemory for process in running if process.pid == os.getpid()]
            if not mine:
                self._reasons["NVML does not list this process (a container with process numbers of its own?)"] = None
            elif mine[0] is None:  # where the driver says NVML_VALUE_NOT_AVAILABLE
                self._reasons["NVML does not tell a process's memory here (Windows display driver, WSL or MIG)"] = None
            else:
                self._process = max(self._process or 0, int(mine[0]))

    @contextmanager
    def _in_words(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._library.NVMLError as error:
            self._reasons[f"{what}: {error}"] = None


def _library(reasons: dict[str, None]) -> Any:
    """pynvml, ready for use, or None and the reason."""
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
    """By the UUID as torch tells it, which is without the prefix, and the same for a GPU and a slice of one."""
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
