"""The interface of a data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

__all__ = ["Data"]


class Data(Protocol):
    """A data set."""

    def train(self) -> Iterable[Any]:
        """Batches of one epoch at every iteration."""
        ...

    def test(self) -> Iterable[Any]:
        """Batches to measure on."""
        ...
