"""Wall-clock time of work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["wall_clock"]


def wall_clock(device: torch.device) -> Callable[[], float]:
    """Return a function that waits for the device to finish its work and returns the time in seconds."""

    def seconds() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return seconds
