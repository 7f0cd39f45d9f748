"""Steps of a network on its device under the tensor meter, for networks that do not run without data."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from mtl_accum.editions import EditionLike, SummedLoss, Tasks, samples_of
from mtl_accum.editions._engine import Piece, read_counts, take
from mtl_accum.memory import Parts, PeakMemory, TensorMeter, TrainingStep
from mtl_accum.planning._timings import completes
from mtl_accum.verify import without_a_trace

__all__ = ["DeviceRun"]

_FEW = 4  # samples of the step that creates the optimizer's state


class DeviceRun:
    """Runs steps of a network on its device, and restores the network at the end; the counterpart of `DryRun`.

    Args:
        step: Step of the network.

    Attributes:
        operators: Names of operators that may have run; only matrix products are assumed.
    """

    def __init__(self, step: TrainingStep) -> None:
        self._step = step
        self._contexts = ExitStack()
        self.operators = {"mm"}

    @property
    def parts(self) -> Parts:
        """Trunk, tasks, batch and optimizer."""
        return self._step.parts

    @property
    def present(self) -> Tasks:
        """Tasks with a target in the batch, by name."""
        counts = read_counts(self._step.tasks, [Piece(None, self._step.batch)])
        return {name: task for name, task in self._step.tasks.items() if counts[name][None]}

    def __enter__(self) -> Self:
        """Run a step on a few samples, which creates the optimizer's state."""
        with ExitStack() as stack:
            stack.enter_context(without_a_trace(self._step))
            self._with(SummedLoss(), _few(self._step.batch))()
            self._contexts = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the network, its optimizer and the random state."""
        self._contexts.__exit__(kind, error, trace)

    def step(self, edition: EditionLike, *, samples: int | None = None) -> TensorMeter | None:
        """Run one step under a meter.

        Args:
            edition: Edition that computes the gradient.
            samples: Number of samples; None runs the whole batch.

        Returns:
            The meter; None if memory ran out.
        """
        batch = self._step.batch
        step = self._with(edition, batch if samples is None else take(batch, (0, samples)))
        with step.tensor_meter() as meter:
            completed = completes(step)
        return meter if completed else None

    def record(self, edition: EditionLike) -> PeakMemory | None:
        """Measure one step on the whole batch; None if memory ran out."""
        meter = self.step(edition)
        return None if meter is None else dataclasses.replace(meter.result(), edition=repr(edition))

    def _with(self, edition: EditionLike, batch: Any) -> TrainingStep:
        trunk, tasks, _, optimizer = self._step.parts
        return TrainingStep(trunk, tasks, batch, optimizer, edition)


def _few(batch: Any) -> Any:
    """Return a few samples; the whole batch if it cannot be cut."""
    try:
        return take(batch, (0, min(_FEW, samples_of(batch, "batch"))))
    except (TypeError, ValueError):
        return batch
