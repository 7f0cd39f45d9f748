"""Warning about a batch without any task's target, as a misspelt target would give, with loss 0 in every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

from mtl_accum.editions._engine._types import Tasks
from mtl_accum.editions._engine._warn import warn_caller
from mtl_accum.editions._engine.batch._inner_task import counted
from mtl_accum.editions._engine.batch._weighted_task import whole_task

__all__ = ["warn_of_absence"]

_MOST = 5  # tasks and keys named in the message
_warned: WeakSet[Any] = WeakSet()  # the first of the tasks, since their mapping may be a new one in every step


def warn_of_absence(tasks: Tasks, batch: Any) -> None:
    """Warn that no task is present in a batch because targets are missing; once for these tasks.

    Counts of 0 with all targets in the batch (labels that are all ignored) need no warning.
    """
    reasons = {name: reason for name, task in tasks.items() if (reason := _missing(task, batch))}
    if not reasons or not _is_new(next(iter(tasks.values()))):
        return
    listed = ", ".join(f"'{name}' ({reason})" for name, reason in list(reasons.items())[:_MOST])
    more = f" and {len(reasons) - _MOST} more" if len(reasons) > _MOST else ""
    warn_caller(
        f"no task is present in this batch, so nothing is computed, and every loss is 0: {listed}{more}. "
        f"{_has(batch)}. If some batches are meant to be without tasks, ignore this warning; it is shown once"
    )


def _is_new(task: Any) -> bool:
    try:
        new = task not in _warned
        _warned.add(task)
    except TypeError:  # no weak references; Python's own registry limits repetitions
        return True
    return new


def _missing(task: Any, batch: Any) -> str:
    """Describe what a task needs and the batch lacks; "" if nothing."""
    source = counted(whole_task(task))
    if hasattr(source, "absence"):
        return str(source.absence(batch))
    return "nothing for it" if hasattr(source, "presence") and source.presence(batch) is False else ""


def _has(batch: Any) -> str:
    if not isinstance(batch, Mapping):
        return f"The batch is a {type(batch).__name__}"
    keys = ", ".join(map(repr, list(batch)[:_MOST])) + (", ..." if len(batch) > _MOST else "")
    return f"The batch has the keys {keys}" if keys else "The batch is empty"
