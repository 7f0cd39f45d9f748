"""A loss on several ranks: each rank's tasks, weighted by their shares of the batch of all ranks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mtl_accum.editions._engine._edition import Edition
from mtl_accum.editions._engine._parts import require_parts
from mtl_accum.editions._engine._types import Tasks, Trunk
from mtl_accum.editions._engine._warn import warn_caller
from mtl_accum.editions._engine.batch._counts import read_counts
from mtl_accum.editions._engine.batch._inner_task import couples_samples, have_counts
from mtl_accum.editions._engine.batch._pieces import Piece, Range, inner_pieces, samples_of
from mtl_accum.editions._engine.batch._weighted_task import WeightedTask, counts_within, reduction_of, whole_task
from mtl_accum.editions._engine.ranks._agreement import Ranks
from mtl_accum.editions._engine.ranks._touch import is_sharded, run_with_others, touch
from mtl_accum.editions._engine.ranks._under_ddp import require_unused_allowed

__all__ = ["Together", "share_out"]


@dataclass(frozen=True)
class Together:
    """The tasks that a rank takes part in without terms for them.

    Attributes:
        elsewhere: Names of the tasks that are absent on this rank and present on another.
        partly: Names of the tasks that are absent on some rank and present on another.
        anywhere: Names of the tasks that are present on some rank.
        in_step: Whether the passes of trunk or heads are collective, and the batch is cut: a piece without terms
            takes part too.
    """

    elsewhere: Collection[str] = ()
    partly: Collection[str] = ()
    anywhere: Collection[str] = ()
    in_step: bool = False

    def touches(self, name: str) -> bool:
        """Return whether a task takes part in a piece that has no terms for it."""
        return name in self.elsewhere or (self.in_step and name in self.anywhere)

    def task(self, name: str, task: Any, *, present: bool) -> Any:
        """Return the function to call for a task on a piece of this rank's batch.

        Args:
            name: Name of the task.
            task: The task, weighted.
            present: Whether the piece has terms for it.

        Returns:
            The task, a function that gives zeros in its place, or None if the task is left out.
        """
        if not present:
            return partial(touch, whole_task(task)) if self.touches(name) else None
        if name in self.partly or (self.in_step and name in self.anywhere):  # another rank may touch it
            return partial(run_with_others, name, whole_task(task), task)
        return task


def share_out(
    edition: Edition, trunk: Trunk, tasks: Tasks, batch: Any, ranks: Ranks
) -> tuple[Mapping[str, WeightedTask], Together]:
    """Weight each task by its share of the loss of all ranks' batches.

    Args:
        edition: Edition; the same on all ranks.
        trunk: Trunk.
        tasks: All tasks, in the same order on all ranks.
        batch: Batch of this rank.
        ranks: Ranks that share the loss.

    Returns:
        The tasks, weighted, with their counts; and which of them take part without terms.

    Raises:
        ValueError: A task couples samples, or what `Ranks.shares` raises.
        RuntimeError: What `require_unused_allowed` raises.
    """
    require_parts(trunk, tasks)
    _refuse_coupled(tasks)
    whole: Range = (0, _samples(tasks, batch))
    piece = Piece(whole, batch)
    cut = any(samples != whole for samples in edition.cuts(whole[1]))
    counts = read_counts(tasks, [piece, *(inner_pieces([piece], edition) if cut else ())])
    passes = edition.passes(whole[1])
    sharded = bool(passes) and is_sharded(trunk, *tasks.values())
    shares = ranks.shares(
        {name: known[whole] for name, known in counts.items()},
        repr(edition),
        sums=[name for name, task in tasks.items() if reduction_of(task) == "sum"],
        passes=repr(passes) if sharded else "",
    )
    anywhere = frozenset(name for name, share in shares.items() if share is not None)
    require_unused_allowed(trunk, tasks, shares.keys() - anywhere)
    together = Together(
        elsewhere=frozenset(name for name, share in shares.items() if share == 0.0),
        partly=ranks.partly,
        anywhere=anywhere,
        in_step=sharded,
    )
    weighted = {}
    for name, task in tasks.items():
        factor = (shares[name] or 0.0) if counts[name][whole] else 0.0
        on_call = partial(_warn_of_samples, name, batch, whole)
        weighted[name] = WeightedTask(task, factor, counts_within(counts[name], whole), on_call)
    return weighted, together


def _refuse_coupled(tasks: Tasks) -> None:
    for name, task in tasks.items():
        if couples_samples(task):
            raise ValueError(
                f"loss: task '{name}' declares couples_samples=True: over the batches of several ranks its loss is "
                "another loss. Gather the samples of all ranks in the loss, and pass a group of this rank alone, "
                "group=torch.distributed.new_group([rank]) made once for each rank on all ranks, for the loss of "
                "this process; an engine that averages gradients then averages those"
            )


def _samples(tasks: Tasks, batch: Any) -> int:
    """Return the number of samples of a batch; 1 where it is unknown and no task counts them."""
    try:
        return samples_of(batch, "batch")
    except (TypeError, ValueError):
        if not have_counts(tasks.values()):
            raise
        return 1


def _warn_of_samples(name: str, batch: Any, whole: Range, inner: Any) -> None:
    """Warn that ranks are weighted by samples for a function that calls a task with another denominator."""
    key = f"{name}: {type(inner).__name__}"
    if key in _warned:
        return
    own = read_counts({name: inner}, [Piece(whole, batch)])[name][whole]
    if own != whole[1]:
        _warned.add(key)
        warn_caller(
            f"task '{name}' is a function without a count, so ranks weigh as their samples ({whole[1]} here), but "
            f"it calls a {type(inner).__name__} whose mean is over {own:g} terms here; set .count on the function "
            "(the denominator of its mean), or make it a module that holds the task"
        )


_warned: set[str] = set()
