"""Measurement of one edition in a fresh process: time, memory, gradient."""

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
    """Difference of a gradient from SummedLoss's.

    Attributes:
        value: Largest relative difference, see `gradient_difference`.
        is_rounding: Whether a difference above the bound is the network's own rounding, as it was measured.
        absent: Names of the tasks that are absent from the batch, and not compared.
    """

    value: float
    is_rounding: bool
    absent: tuple[str, ...]


class MeasurementWorker:
    """Training step of one edition, to be measured in a process of its own.

    Args:
        parts: Tuple (trunk, tasks, batch, optimizer or None), or an importable function that returns it.
        edition: Edition to measure.
        before: Number of used bytes of the CUDA device before the process was started.
        snapshot: File for PyTorch's memory viewer; None writes no file.
    """

    def __init__(
        self, parts: Parts | Build, edition: EditionLike, *, before: int | None = None, snapshot: Path | None = None
    ) -> None:
        self._parts, self._edition = parts, require_edition(edition)
        self._before, self._snapshot = before, snapshot

    def tune_for_timing(self) -> None:
        """Set up the process's allocator for measurements of time; must be called first."""
        keep_freed_memory()

    def tune_for_memory(self) -> None:
        """Set up the process's allocator for measurements of memory; must be called first."""
        ProcessMeter.tune()

    def prepare(self) -> None:
        """Run two warm-up steps, which make optimizer state, workspaces and lazily loaded kernels."""
        trunk, tasks, batch, optimizer = self._parts() if callable(self._parts) else self._parts
        self._step = TrainingStep(trunk, tasks, batch, steppable(optimizer), self._edition)
        for _ in range(2):
            self._step()

    def timed_step(self) -> float:
        """Return the seconds of one step (zero_grad, forward, backward, optimizer), after one that warms the caches."""
        self._step()
        seconds = wall_clock(self._step.device)
        start = seconds()
        self._step()
        return seconds() - start

    def memory(self) -> list[PeakMemory]:
        """Measure the peak of a step with every meter that the device has, each over a step of its own."""
        device = self._step.device
        peaks = [self._measure(CudaMeter(device, before=self._before))] if device.type == "cuda" else []
        tensors = self._step.tensor_meter(trace=self._snapshot is not None)
        peaks.append(dataclasses.replace(self._measure(tensors), caveats=_COMPILED if self._step.compiled() else ()))
        if device.type == "cpu":
            peaks.append(self._measure(ProcessMeter()))
        if self._snapshot is not None:
            self._write_snapshot(self._snapshot, tensors.events)
        return [dataclasses.replace(record, edition=repr(self._edition)) for record in peaks]

    def difference(self) -> GradientDifference:
        """Compare the edition's gradient with SummedLoss's, from the same buffers and random numbers.

        Raises:
            RuntimeError: No parameter has a gradient, or the edition's gradient is not finite.
        """
        step = self._step
        leaves = [*step.parameters, *leaves_reached(step.trunk, step.tasks, step.batch)]
        judge = Judge(Sandbox(step.trunk, step.tasks, step.batch, also=leaves))
        torch.manual_seed(0)
        if not any(gradient is not None for gradient in judge.reference.gradients.values()):
            raise RuntimeError("no parameter has a gradient; pass modules, or the optimizer of their parameters")
        edition = self._edition
        if not edition.leaves_gradients and edition.inner is not None:  # compared are those of the edition inside
            edition = edition.inner
        agreement = judge.agreement(edition)
        if math.isinf(agreement.gradients):
            raise RuntimeError(f"the gradient of {agreement.parameter} is missing or not finite")
        return GradientDifference(agreement.gradients, agreement.is_rounding(), absent_tasks(step.tasks, step.batch))

    def _measure(self, meter: Meter) -> PeakMemory:
        reason = meter.unavailable()
        if reason is not None:
            caveat = f"{meter.source}: not measured, {reason}"
            return PeakMemory(meter.source, str(self._step.device), None, None, None, caveats=(caveat,))
        with meter:
            self._step()
        return meter.result()

    def _write_snapshot(self, path: Path, events: Any) -> None:
        if self._step.device.type != "cuda":
            write_snapshot(events, path)
            return
        torch.cuda.memory._record_memory_history()  # documented, despite the underscore
        self._step()
        torch.cuda.memory._dump_snapshot(str(path))
        torch.cuda.memory._record_memory_history(enabled=None)
