"""Peak memory of a step by torch's profiler: a second opinion on the meters."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

__all__ = ["profiler_peak"]


def profiler_peak(step: Callable[[], None]) -> int:
    """Return the highest balance of the C allocator during a step, in bytes, kernels included.

    Args:
        step: Function to profile.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    live = highest = 0
    results = profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        highest = max(highest, live)
    return highest
