"""Simplicity of schedules, which decides between schedules of equal time; and schedules of a kind in small."""

from __future__ import annotations

import dataclasses
from functools import singledispatch
from typing import Any

from mtl_accum.editions import Accumulated, AsLoss, Cached, Checkpointed, Edition, Offloaded, PerTask, Split

__all__ = ["in_small", "kind", "passes", "pieces", "simplicity"]


def simplicity(edition: Edition, samples: int, tasks: int, peak_bytes: int) -> tuple[int, int, int]:
    """Return a sort key: fewest pieces first, then fewest passes through the trunk, then the smallest peak.

    Args:
        edition: The schedule.
        samples: Number of samples of the batch.
        tasks: Number of tasks.
        peak_bytes: Peak of the schedule in bytes.
    """
    return pieces(edition, samples), passes(edition, tasks), peak_bytes


@singledispatch
def pieces(edition: object, samples: int) -> int:
    """Return the number of pieces that a schedule cuts a batch into.

    Args:
        edition: Edition that runs the schedule.
        samples: Number of samples of the batch.
    """
    return 1


@pieces.register
def _(edition: Split, samples: int) -> int:
    return edition.head_chunks


@pieces.register
def _(edition: Cached, samples: int) -> int:
    return max(-(-samples // edition.chunk_size), edition.head_chunks)


@pieces.register
def _(edition: Accumulated, samples: int) -> int:
    return edition.micro_batches * pieces(edition.edition, -(-samples // edition.micro_batches))


@pieces.register(AsLoss)
@pieces.register(Checkpointed)
@pieces.register(Offloaded)
def _(edition: Any, samples: int) -> int:
    return pieces(edition.edition, samples)


def passes(edition: Edition, tasks: int) -> int:
    """Return the number of passes through the trunk; a transfer of its saved tensors to the host counts as one."""
    if isinstance(edition, PerTask):
        return max(2, tasks)  # for one task it is a roundabout Split
    inner = 1 if edition.inner is None else passes(edition.inner, tasks)
    again = isinstance(edition, AsLoss) and _has_micro_batches(edition.inner)  # in the caller's backward
    return inner + (again or isinstance(edition, Cached | Checkpointed | Offloaded))


def _has_micro_batches(edition: Edition) -> bool:
    return isinstance(edition, Accumulated) or (edition.inner is not None and _has_micro_batches(edition.inner))


def in_small(edition: Any, samples: int, few: int) -> Edition:
    """Return a schedule of the same kind for a few samples, with two pieces where the schedule has several.

    Args:
        edition: Schedule for the batch.
        samples: Number of samples of the batch.
        few: Number of samples of the small batch.
    """
    half = -(-few // 2)
    changes: dict[str, Any] = {}
    if isinstance(edition, Split):
        changes = {"heads_per_graph": 1, "head_chunks": min(2, edition.head_chunks)}
    elif isinstance(edition, Cached):
        changes = {
            "chunk_size": half if edition.chunk_size < samples else few,
            "head_chunks": min(2, edition.head_chunks),
        }
    elif isinstance(edition, Accumulated):
        changes = {"micro_batches": 2, "edition": in_small(edition.edition, samples, half)}
    elif isinstance(edition, AsLoss | Checkpointed | Offloaded):
        changes = {"edition": in_small(edition.edition, samples, few)}
    return dataclasses.replace(edition, **changes)  # type: ignore[no-any-return]


def kind(edition: Edition, samples: int) -> str:
    """Return a name for all schedules that differ in their numbers of pieces only."""
    return repr(in_small(edition, samples, 4))
