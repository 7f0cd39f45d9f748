"""The CUDA meter: the caching allocator's peaks, and NVML beside them."""

from __future__ import annotations

import gc
from typing import Self

import torch

from mtl_accum.memory._nvml import read_nvml
from mtl_accum.memory._record import PeakMemory

__all__ = ["CudaMeter"]


class CudaMeter:
    """Peaks of torch's allocator on one device inside its block, and what NVML says at its end.

    The allocator's pool never shrinks inside a step, so one look by NVML at the end is the peak of the
    process. It holds whatever the process did before: measure in a fresh one.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> Self:
        """Empty the cache and reset the peaks."""
        reason = self.unavailable()
        if reason:
            raise RuntimeError(f"CudaMeter: {reason}")
        gc.collect()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_stats(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        """Read the peaks."""
        torch.cuda.synchronize(self._device)
        self._after = torch.cuda.memory_stats(self._device)
        self._nvml = read_nvml(str(torch.cuda.get_device_properties(self._device).uuid))

    @staticmethod
    def unavailable() -> str | None:
        """Why this meter cannot run here; None if it can."""
        return None if torch.cuda.is_available() else "there is no CUDA device (torch's counters would say 0)"

    def result(self) -> PeakMemory:
        """The peaks inside the block."""
        caveats = list(self._nvml.caveats)
        if self._after.get("num_alloc_retries", 0) > self._before.get("num_alloc_retries", 0):
            caveats.append("the allocator ran out and had to flush its cache: reserved and NVML show the card's limit")
        return PeakMemory(
            "cuda",
            str(self._device),
            peak_bytes=self._after["allocated_bytes.all.peak"],
            base_bytes=self._before["allocated_bytes.all.current"],
            end_bytes=self._after["allocated_bytes.all.current"],
            reserved_bytes=self._after["reserved_bytes.all.peak"],
            process_bytes=self._nvml.process_bytes,
            device_bytes=self._nvml.device_bytes,
            caveats=tuple(caveats),
        )
