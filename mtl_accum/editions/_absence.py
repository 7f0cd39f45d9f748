"""A word about a batch that has nothing for any task: a misspelt target looks like that, with loss 0 for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

from mtl_accum.editions._inner_task import counted
from mtl_accum.editions._types import Tasks
from mtl_accum.editions._warn import warn_caller

__all__ = ["warn_of_absence"]

_MOST = 5  # tasks and keys that are named
_warned: WeakSet[Any] = WeakSet()  # the first of the tasks: their mapping may be made anew for every step


def warn_of_absence(tasks: Tasks, batch: Any) -> None:
    """Warn that no task is present in a batch; once for these tasks."""
    first = next(iter(tasks.values()))
    try:
        if first in _warned:
            return
        _warned.add(first)
    except TypeError:  # it cannot be referred to weakly: Python's own registry keeps repetitions down
        pass
    reasons = ", ".join(f"'{name}' ({_reason(task, batch)})" for name, task in list(tasks.items())[:_MOST])
    more = f" and {len(tasks) - _MOST} more" if len(tasks) > _MOST else ""
    warn_caller(
        f"no task is present in this batch, so nothing is computed, and every loss is 0: {reasons}{more}. The batch "
        f"has {_contents(batch)}. If some batches are meant to be without tasks, all is well; this is said once"
    )


def _reason(task: Any, batch: Any) -> str:
    absence = getattr(counted(task), "absence", None)
    return "its count is 0" if absence is None else str(absence(batch))


def _contents(batch: Any) -> str:
    if not isinstance(batch, Mapping):
        return f"no keys: it is a {type(batch).__name__}"
    keys = ", ".join(map(repr, list(batch)[:_MOST])) + (", ..." if len(batch) > _MOST else "")
    return f"the keys {keys}" if keys else "no keys"
