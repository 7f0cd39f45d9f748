"""Counts of tasks that a function calls, which are visible only while the function runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from mtl_accum.editions._engine.batch._inner_task import couples_samples, obstacle_in_pieces

__all__ = ["calls_inside", "note_call", "refuse_hidden"]

_ROUNDING = 1e-6  # relative; sums of weights in float32 differ by as much

_CALLS: ContextVar[list[Any] | None] = ContextVar("mtl_accum_calls", default=None)


def note_call(task: Any) -> None:
    """Record a task with a count that runs, inside of `calls_inside`."""
    calls = _CALLS.get()
    if calls is not None and torch.is_grad_enabled():  # without gradients it is a teacher's loss, a constant
        calls.append(task)


@contextmanager
def calls_inside() -> Iterator[list[Any]]:
    """Collect the tasks with a count that run inside the block."""
    calls: list[Any] = []
    outer, token = _CALLS.get(), _CALLS.set(calls)
    try:
        yield calls
    finally:
        _CALLS.reset(token)
        if outer is not None:
            outer += calls


def refuse_hidden(name: str, task: Any, own: Sequence[float], taken: Sequence[float]) -> None:
    """Raise ValueError unless the pieces of a batch have the weights of the task that a function calls.

    Args:
        name: Name of the function among the tasks.
        task: Task that the function calls.
        own: Counts of the pieces by that task.
        taken: Counts that the pieces are weighted by: their samples.
    """
    if couples_samples(task):
        raise ValueError(
            f"task '{name}': it calls a {type(task).__name__} that declares couples_samples=True, so its loss "
            "over pieces is another loss; Cached without head_chunks, Split and PerTask give it the whole batch"
        )
    if reason := obstacle_in_pieces(task):
        raise ValueError(
            f"task '{name}': it calls a {type(task).__name__}; {reason}, so the loss over pieces is another loss; "
            "Cached without head_chunks, Split and PerTask give it the whole batch"
        )
    total, samples = sum(own), sum(taken)
    off = max(abs(mine * samples - its * total) for mine, its in zip(own, taken, strict=True))
    if off > _ROUNDING * total * samples:
        raise ValueError(
            f"task '{name}': it calls a {type(task).__name__} whose count of the pieces is {_listed(own)}, but has no "
            f"count itself, so they would weigh as {_listed(taken)}, their samples; set .count (the denominator "
            "of its mean; for a sum .reduction = 'sum') on the function, or make it a module that holds the task"
        )


def _listed(counts: Sequence[float]) -> str:
    return " + ".join(f"{count:g}" for count in counts[:8]) + " + ..." * (len(counts) > 8)
