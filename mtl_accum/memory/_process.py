"""The process meter: peak resident memory on Linux."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import Self

from mtl_accum.memory._malloc import give_back_freed_memory
from mtl_accum.memory._readings import PeakMemory

__all__ = ["ProcessMeter", "process_peak"]

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class ProcessMeter:
    """Peak resident memory of this process inside its block, all libraries included.

    Call `tune` first thing in a fresh process: the C allocator as it comes keeps freed blocks and hands them
    out again, which hid up to 78 % of a step's peak, and blocks from before the tuning stay that way.
    """

    source = "process"
    _tuned = False

    @classmethod
    def tune(cls) -> None:
        """Make the C allocator give memory back, for the rest of this process's life; never time it then."""
        cls._tuned = give_back_freed_memory()

    def __enter__(self) -> Self:
        """Give back what is free, and set the peak to the present size."""
        reason = self.unavailable()
        if reason:
            raise RuntimeError(f"ProcessMeter: {reason}")
        gc.collect()
        if self._tuned:
            ctypes.CDLL(None).malloc_trim(0)
        _CLEAR_REFS.write_text("5")
        self._base = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        """Read the peak."""
        self._peak, self._end = _status("VmHWM"), _status("VmRSS")

    @staticmethod
    def unavailable() -> str | None:
        """Why this meter cannot run here; None if it can."""
        if sys.platform != "linux":
            return f"needs Linux's /proc, found {sys.platform}"
        try:
            _CLEAR_REFS.write_text("5")
        except OSError as error:
            return f"cannot reset the peak: {error}"
        return None

    def result(self) -> PeakMemory:
        """The peak inside the block."""
        untuned = "the C allocator was not tuned: memory that it reuses hides part of the peak"
        return PeakMemory(
            self.source,
            "cpu",
            peak_bytes=self._peak,
            base_bytes=self._base,
            end_bytes=self._end,
            process_bytes=self._peak,
            caveats=() if self._tuned else (untuned,),
        )


def process_peak() -> int | None:
    """The most resident bytes that this process has had; None where there is no Linux's /proc to ask."""
    return _status("VmHWM") if _STATUS.exists() else None


def _status(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} has no line {key}")
