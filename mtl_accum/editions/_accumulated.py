"""Gradient accumulation over micro-batches of one batch, around any edition, with each task's own weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from mtl_accum._validate import boolean, positive_int
from mtl_accum.editions._engine import (
    Edition,
    EditionLike,
    Form,
    Range,
    Schedule,
    Step,
    Tasks,
    Trunk,
    equal_ranges,
    refuse_hidden_modules,
    require_edition,
)

__all__ = ["Accumulated"]


@final
@dataclass(frozen=True)
class Accumulated(Schedule):
    """Accumulated: micro-batches one after the other, each through another edition; the gradients add up.

    Equals::

        for piece in micro_batches:
            for task in tasks.values():
                (task(trunk(piece), piece) * task.count(piece) / task.count(batch)).backward()

    A micro-batch weighs its share of each task's own mean: dividing by the number of micro-batches would be
    wrong for a short last one, and for tasks whose valid terms are spread unevenly.

    Memory: the edition's, for one micro-batch. Passes: as the edition, for each micro-batch.

    Steps:
        1. All counts, of the batch and of every piece, are read in one transfer.
        2. Each micro-batch runs through the edition with its tasks weighted; one without terms for a task leaves
           that task out.

    Micro-batches draw other, equally valid dropout masks than the whole batch does. With 16-bit parameters
    `.grad` itself adds up in 16 bit. DDP: refused; average `.grad` over the processes after the call. AMP: autocast in
    the callables, `backward_scale` around the whole call. BatchNorm: refused, because its statistics would be
    the micro-batches'.

    Args:
        edition: Edition that each micro-batch goes through.
        micro_batches: Number of pieces of one size; the last one may be shorter, and there are at most as many as
            samples.
        allow_batch_statistics: Whether modules may use statistics of the micro-batches; each one updates them.

    Raises:
        TypeError: `edition` has no `forward_backward`.
        ValueError: `micro_batches` is less than 1; a module uses batch statistics; a task couples samples; a
            tensor cannot be cut; or the trunk is a compiled function behind which no module can be found.
    """

    config_group = "accumulated"

    edition: EditionLike
    micro_batches: int
    allow_batch_statistics: bool = False

    def __post_init__(self) -> None:
        positive_int("micro_batches", self.micro_batches)
        boolean("allow_batch_statistics", self.allow_batch_statistics)
        require_edition(self.edition)

    @property
    def inner(self) -> Edition:
        """The edition inside."""
        return require_edition(self.edition)

    def run(self, form: Form, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Schedule.run`."""
        refuse_hidden_modules(self, {"trunk": trunk})
        with Step(trunk, tasks, batch, cuts=self.micro_batches, inner=self.inner, form=form) as step:
            step.refuse_in_pieces(self, allow_batch_statistics=self.allow_batch_statistics, trunk=True)
            if form.defers:
                step.run_trunk_again_in_backward(self)
            for piece in step.pieces:
                step.run_edition(self.inner, piece)
        return step.losses()

    def cuts(self, samples: int) -> list[Range]:
        """Return the micro-batches, and what the edition inside cuts each one into."""
        micro_batches = equal_ranges(samples, self.micro_batches)
        inner = [
            (start + first, start + last)
            for start, stop in micro_batches
            for first, last in self.inner.cuts(stop - start)
        ]
        return micro_batches + inner

    def passes(self, samples: int) -> tuple[Any, ...]:
        """Return for each micro-batch 1 and the passes of the edition inside."""
        micro_batches = equal_ranges(samples, self.micro_batches)
        return tuple((1, *self.inner.passes(stop - start)) for start, stop in micro_batches)
