"""Interface of a data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

__all__ = ["Data"]


class Data(Protocol):
    """Interface of a data set."""

    def train(self) -> Iterable[Any]:
        """Return the training data; every iteration is one epoch of batches."""
        ...

    def test(self) -> Iterable[Any]:
        """Return the batches to evaluate on."""
        ...
