"""CUDA meter: peaks of the caching allocator for every phase, and the memory that NVML reports."""

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
    """Meter of the peaks of torch's allocator on one device inside its block, with NVML's readings.

    The allocator counts on the host, so phases are exact without waiting for the device. NVML's figures include all
    earlier work of the process, so measure in a fresh process.

    Args:
        device: CUDA device.
        before: Used bytes of the device, by NVML, before this process began to use it. If NVML does not report the
            memory of the process, the increase since then is used instead.
    """

    source = "cuda"

    def __init__(self, device: torch.device, *, before: int | None = None) -> None:
        self._device, self._before = device, before
        self._timeline = Timeline()
        self._peaks = dict.fromkeys(_PEAKS, 0)
        self._open = ExitStack()

    def unavailable(self) -> str | None:
        """Return why this meter cannot run here; None if it can."""
        return None if torch.cuda.is_available() else "there is no CUDA device (torch's counters would be 0)"

    def __enter__(self) -> Self:
        """Empty the cache and reset the peaks.

        Raises:
            RuntimeError: There is no CUDA device.
        """
        reason = self.unavailable()
        if reason:
            raise RuntimeError(f"CudaMeter: {reason}")
        gc.collect()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        stats = torch.cuda.memory_stats(self._device)
        self._base, self._failures = stats["allocated_bytes.all.current"], _failures(stats)
        self._timeline.record(self._base, highest=True)
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
        """Record the start of a phase."""
        self._timeline.begin(name, kind, self._read())

    def end(self) -> None:
        """Record the end of the phase."""
        self._timeline.end(self._read())

    def result(self) -> PeakMemory:
        """Return the peaks inside the block."""
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
            caveats=(*caveats, *self._failure_caveats(), *_settings()),
        )

    def _read(self) -> int:
        """Read and reset the allocator's peaks, and return the bytes that are allocated."""
        stats = torch.cuda.memory_stats(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        highest = stats["allocated_bytes.all.peak"] > self._peaks["allocated"]
        self._timeline.record(stats["allocated_bytes.all.peak"], highest=highest)
        for name in _PEAKS:
            self._peaks[name] = max(self._peaks[name], stats.get(f"{name}_bytes.all.peak", 0))
        return int(stats["allocated_bytes.all.current"])

    def _context(self, process: int | None) -> int | None:
        """Return the bytes of the process outside the pool; both peaks are taken to coincide."""
        outside = None if process is None else process - self._peaks["reserved"]
        return outside if outside is None or outside >= 0 else None

    def _process_bytes(self, nvml: NvmlReading) -> tuple[int | None, tuple[str, ...]]:
        if nvml.process_bytes is not None or nvml.device_bytes is None or self._before is None:
            return nvml.process_bytes, nvml.caveats
        caveat = (
            "the process's memory is the difference of the device's used memory before the process and at its peak: "
            "it includes memory that other processes allocated or freed in between"
        )
        return nvml.device_bytes - self._before, (*nvml.caveats, caveat)

    def _failure_caveats(self) -> list[str]:
        after = _failures(self._stats)
        retries, failures = (end - start for end, start in zip(after, self._failures, strict=True))
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
    """Return the used bytes of a CUDA device by NVML, for all processes; None on other devices or without a reading."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return read_nvml(str(torch.cuda.get_device_properties(device).uuid)).device_bytes


def _failures(stats: dict[str, int]) -> tuple[int, int]:
    """Return how often the allocator flushed its cache, and how often it ran out of memory."""
    return stats.get("num_alloc_retries", 0), stats.get("num_ooms", 0)


def _settings() -> list[str]:
    """Return caveats for environment variables that change the allocator."""
    return [f"allocator settings: {name}={os.environ[name]}" for name in _CONF if os.environ.get(name)]
