"""Windows of batches: one epoch, from its beginning or from the batch at which a run was interrupted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mtl_accum._state import RngState

__all__ = ["Position", "windows"]


@dataclass
class Position:
    """Position of a training run in its data.

    Attributes:
        step: Number of optimizer steps done.
        epoch: Number of epochs done.
        batch: Number of batches done in the current epoch.
        began: State of `RngState` at the beginning of the epoch, with which a loader of torch shuffles.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    began: dict[str, Any] = field(default_factory=dict)


def windows(batches: Iterable[Any], position: Position, size: int) -> Iterator[list[Any]]:
    """Yield the rest of an epoch in windows of a number of batches; the last window may be shorter.

    A loader with `at(epoch, batch)` begins anywhere. Any other iterable is iterated from the beginning of the epoch,
    from the random numbers of that moment: a shuffling `DataLoader` repeats its order.

    Args:
        batches: Iterable of one epoch's batches, iterated once an epoch.
        position: Epoch and batch to begin at; its `began` is set at the beginning of an epoch.
        size: Number of batches of a window.
    """
    start_at = getattr(batches, "at", None)
    rest = start_at(position.epoch, position.batch) if start_at is not None else _skip_to(batches, position)
    while window := list(islice(rest, size)):
        yield window


def _skip_to(batches: Iterable[Any], position: Position) -> Iterator[Any]:
    """Iterate an epoch from its beginning, and skip the batches that are done."""
    state = RngState.capture(batches)
    if not position.batch:
        position.began = state.state_dict()
        return iter(batches)
    RngState.from_state_dict(position.began, batches).restore()
    rest = iter(batches)
    for _ in islice(rest, position.batch):
        pass
    state.restore()
    return rest
