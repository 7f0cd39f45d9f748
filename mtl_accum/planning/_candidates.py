"""The schedules among which to choose, and why others are not among them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import Any

from mtl_accum.editions import (
    Accumulated,
    Cached,
    Checkpointed,
    Edition,
    Offloaded,
    PerTask,
    Split,
    SummedLoss,
    Tasks,
    Trunk,
    samples_of,
)
from mtl_accum.editions._engine import refuse_batch_statistics, refuse_coupled_samples, refuse_hidden_modules
from mtl_accum.planning._form import Form

__all__ = ["HEAD_CHUNKS", "TRUNK_CHUNKS", "candidates", "left_out"]

TRUNK_CHUNKS, HEAD_CHUNKS = "trunk chunks", "head chunks"
_MOST_TASKS = 8  # for PerTask, which runs the trunk once a task


def left_out(
    trunk: Trunk, tasks: Tasks, batch: Any, *, on_gpu: bool, form: Form = "forward_backward"
) -> dict[str, str]:
    """What is no candidate for this network, and why: what cannot be exact, in the words of the edition that refuses.

    Args:
        trunk: maps the batch to the representation.
        tasks: those that are present.
        batch: any.
        on_gpu: the step runs on one.
        form: how the loop takes a schedule.

    Returns:
        Reasons by "PerTask", "Cached", "trunk chunks", "Accumulated", "Checkpointed", "Offloaded", "head chunks".
    """
    part = {"trunk": trunk}
    heads = {f"task '{name}'": task for name, task in tasks.items()}
    checks: dict[str, list[Callable[[], object]]] = {
        "PerTask": [
            lambda: _refuse_as_loss(form),
            lambda: refuse_hidden_modules(PerTask(), part),
            lambda: _refuse_many(tasks),
        ],
        "Cached": [
            lambda: refuse_hidden_modules(Cached(1), part),
            lambda: samples_of(batch, "batch"),
        ],
        TRUNK_CHUNKS: [lambda: refuse_batch_statistics(Cached(1), part)],
        "Accumulated": [
            lambda: refuse_hidden_modules(Accumulated(Split(), 2), part),
            lambda: samples_of(batch, "batch"),
            lambda: refuse_coupled_samples(Accumulated(Split(), 2), tasks),
            lambda: refuse_batch_statistics(Accumulated(Split(), 2), part | heads),
        ],
        "Checkpointed": [lambda: refuse_hidden_modules(Checkpointed(Split()), part)],
        "Offloaded": [lambda: _refuse_host(on_gpu)],
        HEAD_CHUNKS: [
            lambda: samples_of(batch, "batch"),
            lambda: refuse_coupled_samples(Split(head_chunks=2), tasks),
            lambda: refuse_batch_statistics(Split(head_chunks=2), heads),
        ],
    }
    found = {}
    for what, refuse in checks.items():
        try:
            for check in refuse:
                check()
        except (TypeError, ValueError) as error:
            found[what] = str(error)
    return found


def candidates(heads: int, samples: int, without: Container[str] = ()) -> list[Edition]:
    """Schedules for that many heads and samples, pieces in powers of two; the simple ones first.

    `Accumulated(Cached(...))` is none: `Accumulated(Split(...))` with twice the micro-batches needs no more memory
    and a trunk pass less.
    """
    counts = [2**n for n in range(1, samples.bit_length()) if 2**n <= samples]
    chunks = [1] if HEAD_CHUNKS in without else [1, *counts]
    whole: list[Edition] = [SummedLoss(), *_splits(heads, chunks)]
    if "Accumulated" not in without:
        whole += [Accumulated(inner, count) for count in counts for inner in _inside(heads, samples, count, chunks)]
    if "Cached" not in without:
        sizes = [samples] if TRUNK_CHUNKS in without else [-(-samples // count) for count in (1, *counts)]
        whole += [Cached(size, head_chunks=count) for size in sizes for count in chunks]
    found = [*whole]
    if "Checkpointed" not in without:
        found += [Checkpointed(edition) for edition in whole]
    if "Offloaded" not in without:
        found += [Offloaded(edition) for edition in found]
    return found if "PerTask" in without else [*found, PerTask()]


def _splits(heads: int, chunks: list[int]) -> Iterator[Split]:
    yield from (Split(heads_per_graph=2**n) for n in range(heads.bit_length()) if 2**n < max(heads, 2))
    yield from (Split(head_chunks=count) for count in chunks[1:])


def _inside(heads: int, samples: int, micro_batches: int, chunks: list[int]) -> Iterator[Edition]:
    """What a micro-batch may go through."""
    size = -(-samples // micro_batches)
    yield SummedLoss()
    yield from _splits(heads, [count for count in chunks if count <= size])


def _refuse_as_loss(form: Form) -> None:
    if form == "loss":
        raise ValueError("PerTask: it has no loss, as every task's backward goes through the trunk by itself")


def _refuse_many(tasks: Tasks) -> None:
    if len(tasks) > _MOST_TASKS:
        raise ValueError(f"PerTask: {len(tasks)} trunk passes; Split needs one, and no more memory")


def _refuse_host(on_gpu: bool) -> None:
    if not on_gpu:
        raise ValueError("Offloaded: what the trunk saves is in the CPU's memory already")
