"""Peak of live bytes by category, with categories that become known after the peak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl_accum.memory._readings import Breakdown

__all__ = ["Peak"]


class Peak:
    """Highest point so far: its bytes, their categories, and the operator that reached it.

    The categories always sum to the bytes. `move` must be called when the category of a storage changes,
    so the categories of the peak are the final categories of its storages.

    Attributes:
        size: Bytes at the peak.
        operator: Operator that reached the peak; None if the peak is at the start.
    """

    def __init__(self) -> None:
        self.size = 0
        self.operator: Any = None
        self._categories: dict[str, int] = {}
        self._created = 0

    def set(self, size: int, categories: Mapping[str, int], created: int, operator: Any = None) -> None:
        """Set the peak to the present state.

        Args:
            size: Live bytes.
            categories: Live bytes by category.
            created: Number of storages that have been created.
            operator: Operator that ran last.
        """
        self.size, self._created, self.operator = size, created, operator
        self._categories = dict(categories)

    def move(self, size: int, number: int, old: str, new: str) -> None:
        """Move a storage that is live now, or until now, to another category, if it was live at the peak.

        Args:
            size: Bytes of the storage.
            number: Number of the storage, in the order of creation.
            old: Category until now.
            new: Category from now on.
        """
        if number <= self._created:
            self._categories[old] -= size
            self._categories[new] += size

    def breakdown(self) -> Breakdown:
        """Return the bytes at the peak by category."""
        return Breakdown(**self._categories)
