"""The CUDA meter: the caching allocator's peaks, phase by phase, and NVML beside them."""

from __future__ import annotations

import gc
import os
from contextlib import ExitStack
from typing import Self

import torch

from mtl_accum.editions._engine import Kind, listen
from mtl_accum.memory._nvml import NvmlReading, NvmlSampler, read_nvml
from mtl_accum.memory._readings import PeakMemory
from mtl_accum.memory._timeline import Timeline

__all__ = ["CudaMeter", "device_in_use"]

_PEAKS = ("allocated", "requested", "active", "reserved")
_CONF = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


class CudaMeter:
    """Peaks of torch's allocator on one device inside its block, and what NVML says meanwhile.

    The allocator counts on the host, so phases are exact without waiting for the device. NVML's figures hold
    whatever the process did before: measure in a fresh one.

    Args:
        device: a CUDA device.
        before: the device's used bytes before this process began to use it, by NVML: the process's figure is
            their difference to now where NVML does not tell it.
    """

    source = "cuda"

    def __init__(self, device: torch.device, *, before: int | None = None) -> None:
        self._device, self._before = device, before
        self._timeline = Timeline()
        self._peaks = dict.fromkeys(_PEAKS, 0)
        self._open = ExitStack()

    def unavailable(self) -> str | None:
        """Why this meter cannot run here; None if it can."""
        return None if torch.cuda.is_available() else "there is no CUDA device (torch's counters would say 0)"

    def __enter__(self) -> Self:
        """Empty the cache and reset the peaks."""
        reason = self.unavailable()
        if reason:
            raise RuntimeError(f"CudaMeter: {reason}")
        gc.collect()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        stats = torch.cuda.memory_stats(self._device)
        self._base, self._troubles = stats["allocated_bytes.all.current"], _troubles(stats)
        self._timeline.see(self._base, highest=True)
        self._nvml = NvmlSampler(str(torch.cuda.get_device_properties(self._device).uuid))
        self._open.enter_context(self._nvml)
        self._open.enter_context(listen(self))
        return self

    def __exit__(self, *_: object) -> None:
        """Read the peaks."""
        self._read()
        torch.cuda.synchronize(self._device)
        self._open.close()
        self._stats = torch.cuda.memory_stats(self._device)

    def begin(self, name: str, kind: Kind) -> None:
        """A phase begins."""
        self._timeline.begin(name, kind, self._read())

    def end(self) -> None:
        """It is over."""
        self._timeline.end(self._read())

    def result(self) -> PeakMemory:
        """The peaks inside the block."""
        nvml = self._nvml.result()
        process, caveats = self._process_bytes(nvml)
        return PeakMemory(
            self.source,
            str(self._device),
            peak_bytes=self._peaks["allocated"],
            base_bytes=self._base,
            end_bytes=self._stats["allocated_bytes.all.current"],
            peak_phase=self._timeline.peak_phase(),
            timeline=self._timeline.phases(),
            requested_bytes=self._peaks["requested"],
            active_bytes=self._peaks["active"],
            reserved_bytes=self._peaks["reserved"],
            process_bytes=process,
            device_bytes=nvml.device_bytes,
            context_bytes=self._context(process),
            caveats=(*caveats, *self._trouble_caveats(), *_settings()),
        )

    def _read(self) -> int:
        """Take the peaks since the last reading, and begin new ones; the bytes that are allocated now."""
        stats = torch.cuda.memory_stats(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        highest = stats["allocated_bytes.all.peak"] > self._peaks["allocated"]
        self._timeline.see(stats["allocated_bytes.all.peak"], highest=highest)
        for name in _PEAKS:
            self._peaks[name] = max(self._peaks[name], stats.get(f"{name}_bytes.all.peak", 0))
        return int(stats["allocated_bytes.all.current"])

    def _context(self, process: int | None) -> int | None:
        """What the process holds outside the pool, which was at its largest when the process was."""
        outside = None if process is None else process - self._peaks["reserved"]
        return outside if outside is None or outside >= 0 else None

    def _process_bytes(self, nvml: NvmlReading) -> tuple[int | None, tuple[str, ...]]:
        if nvml.process_bytes is not None or nvml.device_bytes is None or self._before is None:
            return nvml.process_bytes, nvml.caveats
        instead = (
            "the process's memory is the difference of the device's used memory before the process and at its peak: "
            "what other processes took or freed meanwhile is in it"
        )
        return nvml.device_bytes - self._before, (*nvml.caveats, instead)

    def _trouble_caveats(self) -> list[str]:
        retries, failures = (now - then for now, then in zip(_troubles(self._stats), self._troubles, strict=True))
        caveats = []
        if retries:
            caveats.append(
                f"the allocator ran out {retries} times and flushed its cache: reserved and NVML show the card's "
                "limit, and the step lost time"
            )
        if failures:
            caveats.append(f"out of memory {failures} times inside the step: the peak is where it failed")
        return caveats


def device_in_use(device: torch.device) -> int | None:
    """Used bytes of a CUDA device, all processes, by NVML; None where it does not say, or on other devices."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return read_nvml(str(torch.cuda.get_device_properties(device).uuid)).device_bytes


def _troubles(stats: dict[str, int]) -> tuple[int, int]:
    return stats.get("num_alloc_retries", 0), stats.get("num_ooms", 0)


def _settings() -> list[str]:
    """What changes the allocator's habits."""
    return [f"allocator settings: {name}={os.environ[name]}" for name in _CONF if os.environ.get(name)]
