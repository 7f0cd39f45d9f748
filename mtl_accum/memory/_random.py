"""The random numbers that a network, and the code around it, may draw."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mtl_accum.editions._replay import RandomState

__all__ = ["RandomNumbers", "same_random_numbers"]


class RandomNumbers:
    """The states of torch's, Python's and numpy's generators, when this was made.

    Args:
        state: another one than that of now.

    Attributes:
        state: tensors and plain values by the generators' names.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        numpy = sys.modules.get("numpy")
        self.state = state or {
            "torch": RandomState().states,
            "python": random.getstate(),
            "numpy": None if numpy is None else numpy.random.get_state(),
        }

    def same(self, other: RandomNumbers) -> bool:
        """Whether all generators are in the same states as in another record."""
        mine, theirs = (tree_leaves(numbers.state) for numbers in (self, other))
        return len(mine) == len(theirs) and all(_equal(a, b) for a, b in zip(mine, theirs, strict=True))

    def restore(self) -> None:
        """Put every generator back to this state."""
        RandomState(self.state["torch"]).restore()
        random.setstate(self.state["python"])
        if self.state["numpy"] is not None:
            import_module("numpy").random.set_state(self.state["numpy"])


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    return bool((first == second).all() if hasattr(first, "all") else first == second)


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Put every generator back at the end: a network's own code may draw."""
    before = RandomNumbers()
    try:
        yield
    finally:
        before.restore()
