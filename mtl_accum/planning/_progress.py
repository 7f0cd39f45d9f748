"""Progress of a plan: the stage that runs, and the seconds that each stage took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress"]


class Progress:
    """Reports the stages of a plan and adds up their seconds.

    Args:
        report: Function that is called with the name of each stage when it begins.

    Attributes:
        spent: Seconds by the name of the stage; a stage that ran several times has their sum.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self.spent: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Report a stage, and add the seconds of the block to it."""
        self._report(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - start
