"""A batch cut into pieces, with the counts of every task on each of them: who is present, and with which weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mtl_accum.editions._engine._edition import Edition
from mtl_accum.editions._engine._types import Tasks
from mtl_accum.editions._engine.batch._counts import read_counts, require_sums
from mtl_accum.editions._engine.batch._hidden_counts import refuse_hidden
from mtl_accum.editions._engine.batch._pieces import Piece, Range, cut_batch, equal_ranges, inner_pieces, samples_of
from mtl_accum.editions._engine.batch._weighted_task import Counts, WeightedTask, counts_within, share_of

__all__ = ["CountedBatch"]


class CountedBatch:
    """The batch of one step, cut, with all counts: read once, before the first forward.

    Args:
        tasks: Tasks by name.
        batch: The whole batch.
        cuts: Number of pieces of equal size; 1 leaves the batch whole, and it need not be one that can be cut.
        window: Pieces of a batch that comes in several; cuts is 1.
        inner: Edition that each piece goes through.
        touches: Whether a task takes part in pieces without terms, because other ranks have some.

    Attributes:
        pieces: The batch, cut.
        present: Names of the tasks that have terms in this batch, in the tasks' order.
    """

    def __init__(
        self,
        tasks: Tasks,
        batch: Any,
        *,
        cuts: int,
        window: Sequence[Piece],
        inner: Edition | None,
        touches: Callable[[str], bool],
    ) -> None:
        self._tasks, self._touches = tasks, touches
        self.pieces = list(window) or [Piece(None, batch)]
        whole: list[Piece] = []
        if cuts > 1:
            samples = samples_of(batch, "batch")
            self.pieces = cut_batch(batch, equal_ranges(samples, cuts))
            whole = [Piece((0, samples), batch)]
        self._counts: dict[str, Counts] = read_counts(tasks, [*whole, *self.pieces, *inner_pieces(self.pieces, inner)])
        self._whole: Range | None = None
        if self.pieces[-1].samples is not None:
            self._whole = (0, self.pieces[-1].samples[1])
            for counts in self._counts.values():
                counts.setdefault(self._whole, sum(counts[piece.samples] for piece in self.pieces))
            require_sums(tasks, self._counts, self._whole, self.pieces)
        self.present = [name for name, counts in self._counts.items() if counts[self._whole] or touches(name)]
        self._compared: set[tuple[str, Any]] = set()  # tasks that functions called, with counts that fit

    def has_terms(self, name: str, piece: Piece) -> bool:
        """Return whether a task has terms in a piece."""
        return bool(self._counts[name][piece.samples])

    def tasks_on(self, piece: Piece) -> dict[str, Any]:
        """Return the tasks that take part in a piece, weighted."""
        names = [name for name in self.present if self.has_terms(name, piece) or self._touches(name)]
        return {name: self.task_on(name, piece) for name in names}

    def task_on(self, name: str, piece: Piece) -> Any:
        """Return a task for a piece: as it is for a batch that is not cut, else weighted by its share."""
        task = self._tasks[name]
        if piece.samples is None or self._whole is None:
            return task
        counts = self._counts[name]
        return WeightedTask(
            task,
            share_of(task, counts, piece.samples, self._whole),
            counts_within(counts, piece.samples),
            partial(self._require_same_shares, name),
        )

    def _require_same_shares(self, name: str, inner: Any) -> None:
        """Raise ValueError if a task that a function calls would give the pieces other weights than the function."""
        if (name, inner) not in self._compared:
            self._compared.add((name, inner))
            own = read_counts({name: inner}, self.pieces)[name]
            ranges = [piece.samples for piece in self.pieces]
            refuse_hidden(name, inner, [own[r] for r in ranges], [self._counts[name][r] for r in ranges])
