"""What a meter found out about one step."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PeakMemory"]


@dataclass(frozen=True)
class PeakMemory:
    """The highest point of one step. All sizes in bytes; what could not be had is None, with a caveat.

    Attributes:
        source: "tensors" (live tensor storages), "process" (resident memory) or "cuda" (caching allocator).
        device: the device as torch names it.
        peak_bytes: the highest point of the step, everything live counted.
        base_bytes: what was live when the step began.
        end_bytes: what was live when it ended.
        reserved_bytes: the allocator's pool at its largest.
        process_bytes: the memory of this process: resident on the CPU, as NVML sees it on a GPU.
        device_bytes: used memory of the whole device, as NVML sees it.
        caveats: what a reader must know to trust the figures.
    """

    source: str
    device: str
    peak_bytes: int
    base_bytes: int
    end_bytes: int
    reserved_bytes: int | None = None
    process_bytes: int | None = None
    device_bytes: int | None = None
    caveats: tuple[str, ...] = ()
