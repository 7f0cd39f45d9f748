"""Oracles of editions: the summed loss over the same pieces, in the same order.

An edition in pieces draws other, equally valid random numbers than the whole batch would. Its oracle is the summed
loss of a network that runs in the same pieces: trunk' is the concatenation of trunk(piece), task' the weighted sum of
the task over the pieces. The oracle of gradient accumulation is a summed loss for each micro-batch.

Gradient accumulation and the weights of pieces are written here a second time, on purpose: an oracle that shared them
with the editions would share their errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from mtl_accum.editions import (
    Accumulated,
    AsLoss,
    Cached,
    Checkpointed,
    Edition,
    Offloaded,
    Schedule,
    Split,
    SummedLoss,
    Tasks,
    Trunk,
    samples_of,
)
from mtl_accum.editions._engine import (
    Form,
    OnlyForwardBackward,
    Piece,
    cut_batch,
    equal_ranges,
    facts,
    flatten,
    ranges,
    read_counts,
    reduction_of,
    run_inner,
    take,
    unflatten,
)

__all__ = ["in_pieces", "oracle"]


@singledispatch
def oracle(edition: object) -> Edition:
    """Return an edition that computes the same gradient in the plainest way, with the memory of `SummedLoss`.

    Args:
        edition: Any edition. One that cuts the batch needs a registration (`oracle.register`); without one it is
            compared with the whole batch.
    """
    return SummedLoss()


@singledispatch
def in_pieces(edition: object) -> bool:
    """Return whether an edition cuts the batch."""
    return False


@oracle.register(Split)
def _(edition: Split) -> Schedule:
    forward = edition.order == "forward"
    return _SummedOver(
        lambda trunk: trunk,
        lambda tasks: _over_pieces(
            tasks if forward else dict(reversed(list(tasks.items()))), edition.head_chunks, edition.heads_per_graph
        ),
    )


@oracle.register(Cached)
def _(edition: Cached) -> Schedule:
    return _SummedOver(
        lambda trunk: _Concatenated(trunk, edition.chunk_size), lambda tasks: _over_pieces(tasks, edition.head_chunks)
    )


@oracle.register(Accumulated)
def _(edition: Accumulated) -> Schedule:
    return _PieceByPiece(oracle(edition.edition), edition.micro_batches)


@oracle.register(Checkpointed)
@oracle.register(Offloaded)
@oracle.register(OnlyForwardBackward)
def _(edition: Checkpointed | Offloaded | OnlyForwardBackward) -> Edition:
    return oracle(edition.edition)


@oracle.register(AsLoss)
def _(edition: AsLoss) -> Edition:
    inner = oracle(edition.edition)
    return AsLoss(inner) if isinstance(inner, Schedule) else inner  # all forward passes come before the backward


@in_pieces.register(AsLoss)
@in_pieces.register(Checkpointed)
@in_pieces.register(Offloaded)
@in_pieces.register(OnlyForwardBackward)
def _(edition: AsLoss | Checkpointed | Offloaded | OnlyForwardBackward) -> bool:
    return in_pieces(edition.edition)


@in_pieces.register(Split)
def _(edition: Split) -> bool:
    return edition.head_chunks > 1


@in_pieces.register(Cached)
@in_pieces.register(Accumulated)
def _(edition: Edition) -> bool:
    return True


@dataclass(frozen=True)
class _SummedOver(Schedule):
    """`SummedLoss` of a trunk and tasks that run in pieces."""

    trunk: Callable[[Trunk], Trunk]
    tasks: Callable[[Tasks], Tasks]

    def run(self, form: Form, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Schedule.run`."""
        losses = SummedLoss().run(form, self.trunk(trunk), self.tasks(tasks), batch)
        return {name: losses[name] for name in tasks}


@dataclass(frozen=True)
class _PieceByPiece(Schedule):
    """Edition that runs another one on every micro-batch, each task weighted by its share."""

    edition: Edition
    pieces: int

    def run(self, form: Form, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Schedule.run`."""
        total = {name: torch.zeros(()) for name in tasks}
        for piece, shares in _shares(tasks, batch, self.pieces):
            weighted = {name: _Weighted(task, shares[name]) for name, task in tasks.items() if shares[name]}
            for name, loss in run_inner(form, self.edition, trunk, weighted, piece.batch).items():
                total[name] = total[name] + loss
        return total


@dataclass(frozen=True)
class _Concatenated:
    """Trunk that runs over chunks of the batch, and concatenates the representations."""

    trunk: Trunk
    size: int

    def __call__(self, batch: Any) -> Any:
        cut = cut_batch(batch, ranges(samples_of(batch, "batch"), self.size))
        parts = [flatten(self.trunk(piece.batch), "representation") for piece in cut]
        columns = zip(*(values for values, _ in parts), strict=True)
        return unflatten([torch.cat(c) if isinstance(c[0], Tensor) else c[0] for c in columns], parts[0][1])


class _Weighted:
    """Task times a number."""

    def __init__(self, task: Any, share: float) -> None:
        self._task, self._share = task, share
        vars(self).update(facts(task))

    def __call__(self, representation: Any, batch: Any) -> Tensor:
        loss: Tensor = self._share * self._task(representation, batch)
        return loss


class _Groups:
    """Weighted sums of tasks over pieces of the batch, a group of tasks at a time.

    The order of the calls determines the random numbers that each task draws: for each group, for each piece, for each
    task.

    Args:
        tasks: Tasks by name.
        pieces: Number of pieces of the batch.
        size: Number of tasks in a group.
    """

    def __init__(self, tasks: Tasks, pieces: int, size: int) -> None:
        self._tasks, self._pieces, self._size = tasks, pieces, size
        self._losses: dict[str, Tensor] = {}  # of the present group; tasks are called in their order

    def loss(self, name: str, representation: Any, batch: Any) -> Tensor:
        """Return the loss of a task; the first call for a group runs the whole group."""
        if name not in self._losses:
            self._losses = self._run_group(name, representation, batch)
        return self._losses.pop(name)

    def _run_group(self, first: str, representation: Any, batch: Any) -> dict[str, Tensor]:
        pieces = _shares(self._tasks, batch, self._pieces)
        present = [name for name in self._tasks if any(shares[name] for _, shares in pieces)]
        start = present.index(first)
        terms: dict[str, list[Tensor]] = {name: [] for name in present[start : start + self._size]}
        for piece, shares in pieces:
            for name, losses in terms.items():
                if shares[name]:
                    part = take(representation, piece.samples or (0, 0))
                    losses.append(shares[name] * self._tasks[name](part, piece.batch))
        return {name: torch.stack(losses).sum() for name, losses in terms.items()}


class _InGroup:
    """Task of a group that runs over pieces of the batch."""

    def __init__(self, name: str, task: Any, groups: _Groups) -> None:
        self._name, self._groups = name, groups
        vars(self).update(facts(task))

    def __call__(self, representation: Any, batch: Any) -> Tensor:
        return self._groups.loss(self._name, representation, batch)


def _over_pieces(tasks: Tasks, pieces: int, size: int = 1) -> Tasks:
    if pieces == 1:
        return tasks
    groups = _Groups(tasks, pieces, size)
    return {name: _InGroup(name, task, groups) for name, task in tasks.items()}


def _share(task: Any, piece: float, whole: float) -> float:
    """Return the weight of a piece: its share of a mean's terms, 1 for a sum, 0 where the task is absent in it."""
    if reduction_of(task) == "sum":
        return 1.0 if piece else 0.0
    return piece / (whole or 1)


def _shares(tasks: Tasks, batch: Any, pieces: int) -> list[tuple[Piece, dict[str, float]]]:
    """Return the pieces of a batch, with each task's share in them."""
    samples = samples_of(batch, "batch")
    cut = cut_batch(batch, equal_ranges(samples, pieces))
    whole = Piece((0, samples), batch)
    counts = read_counts(tasks, [whole, *cut])
    return [
        (
            piece,
            {name: _share(tasks[name], count[piece.samples], count[whole.samples]) for name, count in counts.items()},
        )
        for piece in cut
    ]
