"""The random numbers that a network, and the code around it, may draw."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mtl_accum.editions._replay import RandomState

__all__ = ["RandomNumbers", "same_random_numbers"]


class RandomNumbers:
    """The states of torch's, Python's and numpy's generators, when this was made."""

    def __init__(self) -> None:
        self._torch, self._python = RandomState(), random.getstate()
        numpy = sys.modules.get("numpy")
        self._numpy = None if numpy is None else numpy.random.get_state()

    def restore(self) -> None:
        """Put every generator back to this state."""
        self._torch.restore()
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Put every generator back at the end: a network's own code may draw."""
    before = RandomNumbers()
    try:
        yield
    finally:
        before.restore()
