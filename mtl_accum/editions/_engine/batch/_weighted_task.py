"""A task whose loss is multiplied by a number: the share of a piece of the batch, or of one rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mtl_accum.editions._engine.batch._cutting import Range
from mtl_accum.editions._engine.batch._hidden_counts import calls_inside
from mtl_accum.editions._engine.batch._inner_task import counted, couples_samples

__all__ = ["Counts", "WeightedTask", "counts_within", "reduction_of", "share_of", "whole_task"]

Counts = dict[Range | None, float]  # by slice of the batch; None is a batch that is not cut


class WeightedTask:
    """A task times a number.

    Composition in place of a flag: the edition that runs a piece of the batch gets a task like any other.

    Args:
        task: Task of the whole batch.
        weight: Factor of its loss.
        counts: Counts that are known already, by slice of the batch that the weighted task is called with.
        on_call: Function of every task that a function without a count has called.
    """

    def __init__(
        self, task: Any, weight: float, counts: Counts, on_call: Callable[[Any], None] = lambda _: None
    ) -> None:
        self.reduction = reduction_of(task)
        self._task, self._weight, self._counts, self._on_call = task, weight, counts, on_call

    @property
    def couples_samples(self) -> bool:
        """Whether the task declares that its loss couples samples."""
        return couples_samples(self._task)

    @property
    def count(self) -> Any:
        """The count of the task; None where it has none."""
        return getattr(counted(self._task), "count", None)

    def __call__(self, representation: Any, batch: Any) -> Tensor:
        """Return the task's loss, weighted."""
        loss: Any = self._loss(representation, batch)
        return loss * self._weight if isinstance(loss, Tensor) else loss

    def _loss(self, representation: Any, batch: Any) -> Any:
        if self.count is not None or self.reduction == "sum":
            return self._task(representation, batch)
        with calls_inside() as calls:
            loss = self._task(representation, batch)
        for task in calls:
            self._on_call(task)
        return loss

    def known_count(self, samples: Range | None) -> float | None:
        """Return the count of a slice, if it has been read already."""
        return self._counts.get(samples)


def whole_task(task: Any) -> Any:
    """Return the user's task, inside of the weights that pieces and ranks give it."""
    while isinstance(task, WeightedTask):
        task = task._task
    return task


def reduction_of(task: Any) -> str:
    """Return "sum" for a task that declares its loss a sum, whose pieces all weigh 1; else "mean"."""
    return "sum" if getattr(task, "reduction", None) == "sum" else "mean"


def share_of(task: Any, counts: Counts, samples: Range, whole: Range) -> float:
    """Return the weight of a piece of the batch: its share of the terms of the task's mean, 1 for a sum.

    Args:
        task: The task.
        counts: Its counts.
        samples: The piece.
        whole: All samples.
    """
    if reduction_of(task) == "sum" or not counts[whole]:
        return 1.0
    return counts[samples] / counts[whole]


def counts_within(counts: Counts, samples: Range) -> Counts:
    """Return the counts of the slices of a piece, by where they are in the piece, and the piece's own by None."""
    first, last = samples
    inside: Counts = {None: counts[samples]}
    for cut, count in counts.items():
        if cut is not None and first <= cut[0] and cut[1] <= last:
            inside[cut[0] - first, cut[1] - first] = count
    return inside
