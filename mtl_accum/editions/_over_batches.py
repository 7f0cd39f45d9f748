"""Gradient accumulation over a loader's batches, each with its share of every task's own mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from mtl_accum.editions._engine import (
    Edition,
    EditionLike,
    Form,
    Piece,
    Range,
    Schedule,
    Step,
    Tasks,
    Trunk,
    have_counts,
    refuse_weights,
    require_edition,
    require_parts,
    run_inner,
    samples_of,
)

__all__ = ["OverBatches"]


@final
@dataclass(frozen=True)
class OverBatches(Schedule):
    """OverBatches: several batches, one after the other, with the gradient of the large batch that they form together.

    Equals, for batches that could be put together::

        edition.forward_backward(trunk, tasks, concatenated(batches))

    A batch weighs `task.count(batch) / sum of the counts` in each task's mean. Dividing the loss by the number of
    batches would be wrong for the short last batch of an epoch, for a short last window, and for tasks whose targets
    are spread unevenly::

        window = OverBatches(Split())
        losses = window.forward_backward(trunk, tasks, [next(loader) for _ in range(8)])
        optimizer.step()

    Memory: the edition's, for one batch; the other batches can be on the host (see `prepare`). Passes: as the
    edition, for each batch.

    Steps:
        1. All counts, of every batch and of its slices in the edition, are read in one transfer; a single batch goes
           straight into the edition.
        2. Each batch runs through the edition with its tasks weighted; a batch without terms for a task leaves it out.

    BatchNorm: batch statistics are those of one batch at a time. A contrastive loss is over one batch at a time too, as
    in a loop over the batches. With 16-bit parameters `.grad` itself adds up in 16 bit.

    Args:
        edition: Edition that each batch goes through.
        prepare: Function applied to each batch in its turn, e.g. a transfer to the device; counts are read before it.

    Raises:
        TypeError: `edition` has no `forward_backward`, or the batch is no list or tuple of batches.
        ValueError: There is no batch; a task's weight is not exact over several; or a count, or the number of samples
            for a task without one, is unknown.
    """

    no_loss = "its batches come one after the other; let the trainer accumulate, with the loss of one batch at a time"

    edition: EditionLike
    prepare: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        require_edition(self.edition)

    @property
    def inner(self) -> Edition:
        """The edition inside."""
        return require_edition(self.edition)

    def run(self, form: Form, trunk: Trunk, tasks: Tasks, batch: Sequence[Any]) -> dict[str, Tensor]:
        """See `Schedule.run`; the batch is a list of batches, the losses are over all of them."""
        require_parts(trunk, tasks)
        if not isinstance(batch, list | tuple):
            raise TypeError(f"batch must be a list of batches for OverBatches, found {type(batch).__name__}")
        if not batch:
            raise ValueError("batch must hold at least one batch for OverBatches, found none")
        prepare = self.prepare or (lambda one: one)
        if len(batch) == 1:
            return run_inner(form, self.inner, trunk, tasks, prepare(batch[0]))
        refuse_weights(self, tasks)
        with Step(trunk, tasks, batch, window=_consecutive(batch, tasks), inner=self.inner, form=form) as step:
            for samples, one in step.pieces:
                step.run_edition(self.inner, Piece(samples, prepare(one)))
        return step.losses()

    def cuts(self, samples: int) -> list[Range]:
        """Return nothing: the batch is a list of batches, which is not cut."""
        return []


def _consecutive(batches: Sequence[Any], tasks: Tasks) -> list[Piece]:
    """Return every batch with its slice of the batch that they form together."""
    pieces: list[Piece] = []
    end = 0
    for batch in batches:
        start, end = end, end + _samples(batch, tasks)
        pieces.append(Piece((start, end), batch))
    return pieces


def _samples(batch: Any, tasks: Tasks) -> int:
    """Return the number of samples; 1 where it is unknown and every task has a count, as slices are only keys then."""
    try:
        return samples_of(batch, "batch")
    except (TypeError, ValueError):
        if have_counts(tasks.values()):
            return 1
        raise
