"""What a meter or a prediction found out about one step."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Protocol, Self

__all__ = ["Breakdown", "Meter", "PeakMemory", "PhaseMemory"]


@dataclass(frozen=True)
class Breakdown:
    """What the bytes at the peak are.

    Attributes:
        parameters: of the network.
        buffers: of its modules.
        gradients: of the parameters, from the moment that the kernel which computes them has made them.
        optimizer_state: momentum, second moments, step counters.
        inputs: the batch.
        activations: made by a forward and still there when the next backward ran: what autograd had saved, the
            representation, what a checkpointed layer computes again.
        temporaries: all else: made and freed within one forward, and whatever a backward (dL/dz too, and the heads'
            gradients while they wait for the backward of a loss) or the optimizer makes for itself.
        workspaces: what a library keeps in the allocator between its calls; known where it is predicted.
        rounding: what an allocator hands out beyond what was asked for; known where it is predicted.
    """

    parameters: int = 0
    buffers: int = 0
    gradients: int = 0
    optimizer_state: int = 0
    inputs: int = 0
    activations: int = 0
    temporaries: int = 0
    workspaces: int = 0
    rounding: int = 0

    @property
    def total(self) -> int:
        """The sum: the peak."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class PhaseMemory:
    """One phase of a step, in bytes.

    Attributes:
        name: what ran: "trunk", "head digit", "optimizer".
        kind: "forward", "backward", "optimizer" or "zero_grad".
        peak_bytes: the most that was live since the phase before it ended.
        end_bytes: what was live when it ended.
        start_bytes: what was live when it began.
        rise_bytes: how far it went above that.
        start_operator: how many operators had run when it began; where a meter counts them.
        end_operator: how many when it ended.
    """

    name: str
    kind: str
    peak_bytes: int
    end_bytes: int
    start_bytes: int = 0
    rise_bytes: int = 0
    start_operator: int = field(default=0, compare=False)  # the same step has others without data
    end_operator: int = field(default=0, compare=False)


@dataclass(frozen=True)
class PeakMemory:
    """The highest point of one step. All sizes in bytes; what could not be had is None, with a caveat.

    Attributes:
        source: "tensors" (live tensor storages), "process" (resident memory), "cuda" (caching allocator) or
            "predicted" (live tensor storages of a run on tensors without data).
        device: the device as torch names it; of a prediction, the device that it is for.
        peak_bytes: the highest point of the step, everything live counted.
        base_bytes: what was live when the step began.
        end_bytes: what was live when it ended.
        edition: what computed the gradient.
        categories: what the bytes at the peak are; they sum to peak_bytes.
        peak_phase: the phase of the peak.
        peak_operator: the operator that reached it.
        timeline: the phases in the order in which they ran; of a prediction for "cuda" without the rounding.
        curve: how many operators had run, and what was live then; the lowest and highest points of many stretches.
        requested_bytes: what was asked of the allocator at the most, before it rounds up.
        active_bytes: its blocks in use or not yet free for reuse, at the most.
        reserved_bytes: its pool at its largest.
        process_bytes: the memory of this process: resident on the CPU, as the driver sees it on a GPU.
        device_bytes: used memory of the whole device, as the driver sees it.
        context_bytes: what the process holds on the device outside the pool: CUDA context, loaded kernels.
        caveats: what a reader must know to trust the figures.
    """

    source: str
    device: str
    peak_bytes: int | None
    base_bytes: int | None
    end_bytes: int | None
    edition: str | None = None
    categories: Breakdown | None = None
    peak_phase: str | None = None
    peak_operator: str | None = None
    timeline: tuple[PhaseMemory, ...] = ()
    curve: tuple[tuple[int, int], ...] = ()
    requested_bytes: int | None = None
    active_bytes: int | None = None
    reserved_bytes: int | None = None
    process_bytes: int | None = None
    device_bytes: int | None = None
    context_bytes: int | None = None
    caveats: tuple[str, ...] = ()


class Meter(Protocol):
    """Measures what runs inside its block."""

    source: str

    def unavailable(self) -> str | None:
        """Why this meter cannot run here; None if it can."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def result(self) -> PeakMemory:
        """The peak inside the block."""
        ...
