"""The second opinion on memory: torch's profiler."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def profiled(step: Callable[[], None]) -> int:
    """The highest point of the C allocator's balance, by torch's profiler, kernels included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    live = highest = 0
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        highest = max(highest, live)
    return highest
