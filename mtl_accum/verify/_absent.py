"""Absent tasks of a batch, to be shown to the user: a misspelt target makes a task absent, with loss 0 for ever."""

from __future__ import annotations

from typing import Any

from mtl_accum.editions import Tasks
from mtl_accum.editions._engine import Piece, read_counts

__all__ = ["absent_tasks"]


def absent_tasks(tasks: Tasks, batch: Any) -> tuple[str, ...]:
    """Return the names of the tasks that are absent from a batch: without a target in it, or with a count of 0."""
    counts = read_counts(tasks, [Piece(None, batch)])
    return tuple(name for name, count in counts.items() if not count[None])
