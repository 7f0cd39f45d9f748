"""Wall-clock time of work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["wall_clock"]


def wall_clock(device: torch.device) -> Callable[[], float]:
    """Seconds, read when the device has done all that it was asked for."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now
