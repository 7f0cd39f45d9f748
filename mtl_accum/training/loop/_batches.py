"""An epoch's batches, from its beginning or from where a run was interrupted, in windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from mtl_accum._state import RandomNumbers

__all__ = ["LoaderNumbers", "Position", "windows"]


@dataclass
class Position:
    """Where a run is in its data.

    Attributes:
        step: optimizer steps done.
        epoch: epochs done.
        batch: batches of the current epoch done.
        began: the state of `LoaderNumbers` at the epoch's beginning, which a loader of torch shuffles with.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    began: dict[str, Any] = field(default_factory=dict)


class LoaderNumbers:
    """The random numbers that a loader draws, when this was made: the process's, and those of a generator of its own.

    Args:
        batches: the loader; its attribute `generator` may be one.
        state: another one than that of now.

    Attributes:
        state: tensors and plain values, by name.
    """

    def __init__(self, batches: Iterable[Any], state: Mapping[str, Any] | None = None) -> None:
        own = getattr(batches, "generator", None)
        self._own = own if isinstance(own, torch.Generator) else None
        self.state = state or {
            "process": RandomNumbers().state,
            "own": None if self._own is None else self._own.get_state(),
        }

    def restore(self) -> None:
        """Put them back to this state."""
        RandomNumbers(self.state["process"]).restore()
        if self._own is not None and self.state["own"] is not None:
            self._own.set_state(self.state["own"])


def windows(batches: Iterable[Any], position: Position, size: int) -> Iterator[list[Any]]:
    """The rest of an epoch, so many batches at a time; the last window may be shorter.

    A loader with `at(epoch, batch)` begins anywhere. Any other iterable is gone through again from the epoch's
    beginning, with the random numbers of then: a shuffling `DataLoader` gives the batches that it would have given.

    Args:
        batches: one epoch of them at every iteration.
        position: epoch and batch to begin at; is not changed, but for `began`.
        size: batches of a window.
    """
    begin = getattr(batches, "at", None)
    rest = begin(position.epoch, position.batch) if begin is not None else _again(batches, position)
    while window := list(islice(rest, size)):
        yield window


def _again(batches: Iterable[Any], position: Position) -> Iterator[Any]:
    now = LoaderNumbers(batches)
    if not position.batch:
        position.began = dict(now.state)
        return iter(batches)
    LoaderNumbers(batches, position.began).restore()
    rest = iter(batches)
    for _ in islice(rest, position.batch):
        pass
    now.restore()
    return rest
