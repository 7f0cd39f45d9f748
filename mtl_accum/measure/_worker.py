"""What a fresh process measures about one edition."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mtl_accum._optimizers import steppable
from mtl_accum.editions import EditionLike, require_edition
from mtl_accum.memory import (
    Build,
    CudaMeter,
    Meter,
    Parts,
    PeakMemory,
    ProcessMeter,
    TrainingStep,
    keep_freed_memory,
    wall_clock,
    write_snapshot,
)
from mtl_accum.verify import Judge, Sandbox, absent_tasks, leaves_reached

__all__ = ["GradientDifference", "MeasurementWorker"]

_COMPILED = (
    "compiled code makes tensors that no operator shows: live tensors are too few, the device's figures right",
)


@dataclass(frozen=True)
class GradientDifference:
    """How far a gradient is from SummedLoss's.

    Attributes:
        value: Largest relative difference, see `gradient_difference`.
        is_rounding: Whether a difference above the bound is the network's own rounding, as it was measured.
        absent: Tasks that have nothing to learn from the batch, and that nothing was compared of.
    """

    value: float
    is_rounding: bool
    absent: tuple[str, ...]


class MeasurementWorker:
    """One edition on one network and one batch: a step, timed or weighed, and its gradient.

    Args:
        parts: (trunk, tasks, batch, optimizer or None), or an importable function that returns them.
        edition: what to measure.
        before: used bytes of the CUDA device before the process of this bench began.
        snapshot: a file for PyTorch's memory viewer; None writes none.
    """

    def __init__(
        self, parts: Parts | Build, edition: EditionLike, *, before: int | None = None, snapshot: Path | None = None
    ) -> None:
        self._parts, self._edition = parts, require_edition(edition)
        self._before, self._snapshot = before, snapshot

    def to_be_timed(self) -> None:
        """Make this process one that is timed; the first thing to call then."""
        keep_freed_memory()

    def to_be_weighed(self) -> None:
        """Make this process one that is weighed; the first thing to call then."""
        ProcessMeter.tune()

    def prepare(self) -> None:
        """Two warm-up steps: optimizer state, workspaces and lazily loaded kernels exist after them."""
        trunk, tasks, batch, optimizer = self._parts() if callable(self._parts) else self._parts
        self._step = TrainingStep(trunk, tasks, batch, steppable(optimizer), self._edition)
        for _ in range(2):
            self._step()

    def timed_step(self) -> float:
        """Seconds of one step: zero_grad, forward and backward, optimizer; after one that warms the caches."""
        self._step()
        now = wall_clock(self._step.device)
        start = now()
        self._step()
        return now() - start

    def memory(self) -> list[PeakMemory]:
        """The peaks of one step by every meter that this device has, each over a step of its own."""
        device = self._step.device
        found = [self._weigh(CudaMeter(device, before=self._before))] if device.type == "cuda" else []
        tensors = self._step.tensor_meter(trace=self._snapshot is not None)
        found.append(dataclasses.replace(self._weigh(tensors), caveats=_COMPILED if self._step.compiled() else ()))
        if device.type == "cpu":
            found.append(self._weigh(ProcessMeter()))
        if self._snapshot is not None:
            self._write_snapshot(self._snapshot, tensors.events)
        return [dataclasses.replace(record, edition=repr(self._edition)) for record in found]

    def difference(self) -> GradientDifference:
        """How far this edition's gradient is from SummedLoss's, from the same buffers and random numbers."""
        step = self._step
        leaves = [*step.parameters, *leaves_reached(step.trunk, step.tasks, step.batch)]
        judge = Judge(Sandbox(step.trunk, step.tasks, step.batch, also=leaves))
        torch.manual_seed(0)
        if not any(gradient is not None for gradient in judge.reference.gradients.values()):
            raise RuntimeError("found no parameter with a gradient; pass modules, or the optimizer of its parameters")
        edition = self._edition
        if not edition.leaves_gradients and edition.inner is not None:  # they are those of the edition inside
            edition = edition.inner
        agreement = judge.agreement(edition)
        if math.isinf(agreement.gradients):
            raise RuntimeError(f"the gradient of {agreement.parameter} is missing or not finite")
        return GradientDifference(agreement.gradients, agreement.is_rounding(), absent_tasks(step.tasks, step.batch))

    def _weigh(self, meter: Meter) -> PeakMemory:
        reason = meter.unavailable()
        if reason is not None:
            why = f"{meter.source}: not measured, {reason}"
            return PeakMemory(meter.source, str(self._step.device), None, None, None, caveats=(why,))
        with meter:
            self._step()
        return meter.result()

    def _write_snapshot(self, path: Path, events: Any) -> None:
        if self._step.device.type != "cuda":
            write_snapshot(events, path)
            return
        torch.cuda.memory._record_memory_history()  # underscored, and documented
        self._step()
        torch.cuda.memory._dump_snapshot(str(path))
        torch.cuda.memory._record_memory_history(enabled=None)
