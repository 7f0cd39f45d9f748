"""An epoch's batches, from its beginning or from where a run was interrupted, in windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from mtl_accum.training._state import random_numbers, restore_random_numbers

__all__ = ["Position", "windows"]


@dataclass
class Position:
    """Where a run is in its data.

    Attributes:
        step: optimizer steps done.
        epoch: epochs done.
        batch: batches of the current epoch done.
        began: the random numbers at the epoch's beginning, which a loader of torch shuffles with.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    began: dict[str, Any] = field(default_factory=dict)


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
    generator = getattr(batches, "generator", None)
    if not position.batch:
        position.began = {"numbers": random_numbers()}
        if isinstance(generator, torch.Generator):
            position.began["loader"] = generator.get_state()
        return iter(batches)
    now = random_numbers()
    restore_random_numbers(position.began["numbers"])
    if isinstance(generator, torch.Generator) and "loader" in position.began:
        generator.set_state(position.began["loader"])
    rest = iter(batches)
    for _ in islice(rest, position.batch):
        pass
    restore_random_numbers(now)
    return rest
