"""Load of the machine while a study ran."""

from __future__ import annotations

import os

__all__ = ["loads", "noise"]


def loads() -> float | None:
    """Return the load average of the last minute; None where the system has none."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def noise(before: float | None, after: float | None) -> str:
    """Return a sentence on how far times can be trusted."""
    if before is None or after is None:
        return "How busy the machine was is not known."
    cores = os.cpu_count() or 1
    text = f"{before:.1f} processes wanted one of the {cores} cores before the run and {after:.1f} after it"
    if max(before, after) > 2 * cores:
        return f"**The machine was busy**: {text}. Memory is exact all the same; times, and ratios of times, are not."
    return f"The machine was quiet: {text}."
