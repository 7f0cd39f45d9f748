"""Results of memory meters and predictions for one step."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Protocol, Self

__all__ = ["Breakdown", "Meter", "PeakMemory", "PhaseMemory"]


@dataclass(frozen=True)
class Breakdown:
    """Bytes at the peak by category.

    Attributes:
        parameters: Bytes of the network's parameters.
        buffers: Bytes of the modules' buffers.
        gradients: Bytes of the parameters' gradients, counted from the kernel that computes them.
        optimizer_state: Bytes of momentum, second moments and step counters.
        inputs: Bytes of the batch.
        activations: Bytes that a forward allocated and that were live when the next backward ran: tensors saved by
            autograd, the representation, and recomputed activations of checkpointed layers.
        temporaries: All other bytes: allocated and freed within one forward, or allocated by the optimizer or a
            backward, including dL/dz and gradients of heads until the backward of a loss.
        workspaces: Bytes that a library keeps in the allocator between its calls; predictions only.
        rounding: Bytes that an allocator adds to the requested sizes; predictions only.
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
        """Sum of all categories, which is the peak."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class PhaseMemory:
    """Memory of one phase of a step, in bytes.

    Attributes:
        name: Part of the network that ran, such as "trunk" or "head digit", or "optimizer".
        kind: Kind of the phase: "forward", "backward", "optimizer" or "zero_grad".
        peak_bytes: Peak of the live bytes since the end of the previous phase.
        end_bytes: Live bytes at the end of the phase.
        start_bytes: Live bytes at its start.
        rise_bytes: Peak within the phase, above `start_bytes`.
        start_operator: Number of operators that had run at its start, if the meter counts them.
        end_operator: Number of operators that had run at its end.
    """

    name: str
    kind: str
    peak_bytes: int
    end_bytes: int
    start_bytes: int = 0
    rise_bytes: int = 0
    start_operator: int = field(default=0, compare=False)  # differs for the same step without data
    end_operator: int = field(default=0, compare=False)


@dataclass(frozen=True)
class PeakMemory:
    """Peak memory of one step. All sizes are in bytes; a missing figure is None, with a caveat.

    Attributes:
        source: Source of the figures: "tensors" (live tensor storages), "process" (resident memory), "cuda" (caching
            allocator) or "predicted" (live tensor storages of a run on tensors without data).
        device: Name of the device in torch; for a prediction, the device that it is for.
        peak_bytes: Peak of the live bytes.
        base_bytes: Live bytes at the start of the step.
        end_bytes: Live bytes at its end.
        edition: Edition that computed the gradient.
        categories: Bytes at the peak by category; they sum to peak_bytes.
        peak_phase: Phase of the peak.
        peak_operator: Operator that reached the peak.
        timeline: Phases in the order in which they ran; without rounding for a prediction for "cuda".
        curve: Pairs of the number of operators so far and the live bytes: the lowest and highest points of many
            stretches of the step.
        requested_bytes: Peak of the bytes requested from the allocator, before it rounds up.
        active_bytes: Peak of the allocator's blocks that are in use or not yet free for reuse.
        reserved_bytes: Peak of the allocator's pool.
        process_bytes: Peak memory of this process: resident on the CPU, by the driver on a GPU.
        device_bytes: Peak of the used memory of the whole device, by the driver.
        context_bytes: Bytes of the process on the device outside the pool: CUDA context, loaded kernels.
        caveats: Limitations that a reader must know to trust the figures.
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
    """Meter of the memory of code that runs inside its block."""

    source: str

    def unavailable(self) -> str | None:
        """Return why this meter cannot run here; None if it can."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def result(self) -> PeakMemory:
        """Return the peak inside the block."""
        ...
