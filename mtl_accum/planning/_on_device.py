"""The network itself under the meter, where its steps do not run on tensors without data."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from mtl_accum.editions import EditionLike, SummedLoss, Tasks, samples_of
from mtl_accum.editions._engine import Piece, read_counts, take
from mtl_accum.memory import Parts, PeakMemory, TensorMeter, TrainingStep
from mtl_accum.planning._timings import ran
from mtl_accum.verify import without_a_trace

__all__ = ["OnDevice"]

_FEW = 4  # samples of the step that makes the optimizer's state


class OnDevice:
    """Runs steps of a network where it is, and puts everything back at the end; has what a `DryRun` has.

    Args:
        step: A step of the network.

    Attributes:
        seen: Operators that were seen; matrix products are taken for granted.
    """

    def __init__(self, step: TrainingStep) -> None:
        self._step = step
        self._open = ExitStack()
        self.seen = {"mm"}

    @property
    def parts(self) -> Parts:
        """Trunk, tasks, batch and optimizer."""
        return self._step.parts

    @property
    def present(self) -> Tasks:
        """The tasks that have something to learn from this batch."""
        counts = read_counts(self._step.tasks, [Piece(None, self._step.batch)])
        return {name: task for name, task in self._step.tasks.items() if counts[name][None]}

    def __enter__(self) -> Self:
        """Run a step on a few samples, for the optimizer to have its state."""
        with ExitStack() as stack:
            stack.enter_context(without_a_trace(self._step))
            self._of(SummedLoss(), _few(self._step.batch))()
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put everything back."""
        self._open.__exit__(kind, error, trace)

    def step(self, edition: EditionLike, *, samples: int | None = None) -> TensorMeter | None:
        """Run one step, on so many samples or on all, under a meter; None where memory ran out."""
        batch = self._step.batch
        step = self._of(edition, batch if samples is None else take(batch, (0, samples)))
        with step.tensor_meter() as meter:
            did = ran(step)
        return meter if did else None

    def record(self, edition: EditionLike) -> PeakMemory | None:
        """Measure one step on the whole batch; None where memory ran out."""
        meter = self.step(edition)
        return None if meter is None else dataclasses.replace(meter.result(), edition=repr(edition))

    def _of(self, edition: EditionLike, batch: Any) -> TrainingStep:
        trunk, tasks, _, optimizer = self._step.parts
        return TrainingStep(trunk, tasks, batch, optimizer, edition)


def _few(batch: Any) -> Any:
    try:
        return take(batch, (0, min(_FEW, samples_of(batch, "batch"))))
    except (TypeError, ValueError):
        return batch
