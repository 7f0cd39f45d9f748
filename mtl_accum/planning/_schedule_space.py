"""Candidate schedules for a network, and the reasons why others are left out."""

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
_MOST_TASKS = 8  # for PerTask, which runs the trunk once per task


def left_out(
    trunk: Trunk, tasks: Tasks, batch: Any, *, on_gpu: bool, form: Form = "forward_backward"
) -> dict[str, str]:
    """Return the kinds of schedules that are no candidates for a network, with the reasons.

    A kind that cannot be exact is left out with the message of the edition that refuses it.

    Args:
        trunk: Function that maps the batch to the representation.
        tasks: Tasks that are present in the batch, by name.
        batch: Batch to plan for.
        on_gpu: Whether the step runs on a GPU.
        form: How the training loop calls a schedule.

    Returns:
        Reasons by "PerTask", "Cached", "trunk chunks", "Accumulated", "Checkpointed", "Offloaded", "head chunks".
    """
    trunk_by_name = {"trunk": trunk}
    heads = {f"task '{name}'": task for name, task in tasks.items()}
    checks: dict[str, list[Callable[[], object]]] = {
        "PerTask": [
            lambda: _refuse_as_loss(form),
            lambda: refuse_hidden_modules(PerTask(), trunk_by_name),
            lambda: _refuse_many(tasks),
        ],
        "Cached": [
            lambda: refuse_hidden_modules(Cached(1), trunk_by_name),
            lambda: samples_of(batch, "batch"),
        ],
        TRUNK_CHUNKS: [lambda: refuse_batch_statistics(Cached(1), trunk_by_name)],
        "Accumulated": [
            lambda: refuse_hidden_modules(Accumulated(Split(), 2), trunk_by_name),
            lambda: samples_of(batch, "batch"),
            lambda: refuse_coupled_samples(Accumulated(Split(), 2), tasks),
            lambda: refuse_batch_statistics(Accumulated(Split(), 2), trunk_by_name | heads),
        ],
        "Checkpointed": [lambda: refuse_hidden_modules(Checkpointed(Split()), trunk_by_name)],
        "Offloaded": [lambda: _refuse_host(on_gpu)],
        HEAD_CHUNKS: [
            lambda: samples_of(batch, "batch"),
            lambda: refuse_coupled_samples(Split(head_chunks=2), tasks),
            lambda: refuse_batch_statistics(Split(head_chunks=2), heads),
        ],
    }
    reasons = {}
    for kind, refusals in checks.items():
        try:
            for refuse in refusals:
                refuse()
        except (TypeError, ValueError) as error:
            reasons[kind] = str(error)
    return reasons


def candidates(heads: int, samples: int, without: Container[str] = ()) -> list[Edition]:
    """List the candidate schedules, simple ones first; numbers of pieces are powers of two.

    `Accumulated(Cached(...))` is left out: `Accumulated(Split(...))` with twice the micro-batches needs no more memory
    and one trunk pass less.

    Args:
        heads: Number of heads.
        samples: Number of samples of the batch.
        without: Kinds of schedules that are left out, as `left_out` names them.
    """
    counts = [2**n for n in range(1, samples.bit_length()) if 2**n <= samples]
    chunks = [1] if HEAD_CHUNKS in without else [1, *counts]
    whole: list[Edition] = [SummedLoss(), *_splits(heads, chunks)]
    if "Accumulated" not in without:
        whole += [Accumulated(inner, count) for count in counts for inner in _inside(heads, samples, count, chunks)]
    if "Cached" not in without:
        sizes = [samples] if TRUNK_CHUNKS in without else [-(-samples // count) for count in (1, *counts)]
        whole += [Cached(size, head_chunks=count) for size in sizes for count in chunks]
    editions = [*whole]
    if "Checkpointed" not in without:
        editions += [Checkpointed(edition) for edition in whole]
    if "Offloaded" not in without:
        editions += [Offloaded(edition) for edition in editions]
    return editions if "PerTask" in without else [*editions, PerTask()]


def _splits(heads: int, chunks: list[int]) -> Iterator[Split]:
    yield from (Split(heads_per_graph=2**n) for n in range(heads.bit_length()) if 2**n < max(heads, 2))
    yield from (Split(head_chunks=count) for count in chunks[1:])


def _inside(heads: int, samples: int, micro_batches: int, chunks: list[int]) -> Iterator[Edition]:
    """List the schedules inside a micro-batch."""
    size = -(-samples // micro_batches)
    yield SummedLoss()
    yield from _splits(heads, [count for count in chunks if count <= size])


def _refuse_as_loss(form: Form) -> None:
    if form == "loss":
        raise ValueError("PerTask: it has no loss, since every task has a backward of its own through the trunk")


def _refuse_many(tasks: Tasks) -> None:
    if len(tasks) > _MOST_TASKS:
        raise ValueError(f"PerTask: {len(tasks)} trunk passes; Split needs one, and no more memory")


def _refuse_host(on_gpu: bool) -> None:
    if not on_gpu:
        raise ValueError("Offloaded: the trunk's saved tensors are in host memory already")
