"""Seconds that a plan takes, by what it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Clock"]


class Clock:
    """Seconds by what was done meanwhile.

    Args:
        tell: Called with what begins.

    Attributes:
        spent: The seconds.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Count what the block takes."""
        self._tell(what)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent[what] = self.spent.get(what, 0.0) + time.perf_counter() - start
