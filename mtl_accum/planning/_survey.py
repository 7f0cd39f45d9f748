"""All that is known of a network, from a few runs on tensors without data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from mtl_accum.editions import Edition, Split, modules_of, samples_of
from mtl_accum.editions._engine import listen
from mtl_accum.memory import Breakdown, Parts, TensorMeter
from mtl_accum.planning._costs import CostTable, NetworkCosts, PartCost, with_all_heads
from mtl_accum.planning._formula import Tables, estimate
from mtl_accum.planning._operations import OperationCounter
from mtl_accum.planning._probe import Probe, Stopwatch, anything_ran, as_pieces, bytes_of, wrapped

__all__ = ["Stage", "Survey", "survey"]

_FEW = 12  # the smaller of two sizes is that part of the batch: small pieces matter, and one sample is a special case
_FEWEST = 2  # samples: batch normalisation refuses one


class Survey(NamedTuple):
    """What two sizes have told.

    Attributes:
        tables: the pieces at every number of samples, with seconds by operation counts.
        samples: of the batch; 1 if it cannot be cut.
        rests: what the bytes are that are there whatever the schedule: parameters, buffers, optimizer state, the batch.
        uncuttable: why batch or representation cannot be cut; empty if they can.
        seconds_per_phase: how long tensors without data take.
    """

    tables: Tables
    samples: int
    rests: Breakdown
    uncuttable: str
    seconds_per_phase: float


class Stage(Protocol):
    """Where steps of a network run under a meter: a `DryRun` on tensors without data, or `OnDevice`."""

    @property
    def parts(self) -> Parts:
        """Trunk, tasks, batch and optimizer."""
        ...

    def step(self, edition: Edition, *, samples: int | None = None) -> TensorMeter | None:
        """Run one step, on so many samples or on all; None where memory ran out."""
        ...


def survey(stage: Stage, variants: Sequence[str], room: int | None = None) -> Survey:
    """Probe a network at the size of the batch and at a small one.

    Args:
        stage: inside its block.
        variants: what may be done with the trunk: "", "checkpointed", "offloaded", "offloaded, checkpointed".
        room: bytes that a probe may take where it runs on the device, which it does at two more sizes, from the
            smallest up as long as it fits; None where it runs on tensors without data.

    Raises:
        PredictionError: the step does not run on tensors without data.
        MemoryError: not even a few samples fit.
    """
    batch = stage.parts[2]
    uncuttable = ""
    try:
        samples = samples_of(batch, "batch")
        sizes = _sizes(samples, few=2 if room is None else 4)
    except (TypeError, ValueError) as error:
        samples, sizes, uncuttable = 1, [None], str(error)
    per_sample = bytes_of(batch) / samples if sizes != [None] else 0.0
    tables: dict[str, CostTable] = {}
    probed: _Probed | None = None
    for variant in variants:
        known: dict[int, NetworkCosts] = {}
        for size in sizes:
            if room is not None and probed is not None and len(known) > 1:
                so_far = Tables(probed.base - per_sample * samples, per_sample, {"": CostTable(with_all_heads(known))})
                if estimate(Split(), so_far, size or samples).peak_bytes > room:
                    break
            try:
                latest = _probe(stage, variant, size)
            except _NoTargetError:
                continue
            if latest is None:
                break
            probed, known[size or samples] = latest, latest.pieces
        if not known:
            raise MemoryError("found no piece of the batch that fits into memory and has a target")
        tables[variant] = CostTable(with_all_heads(known))
    assert probed is not None
    known_pieces = Tables(probed.base - per_sample * samples, per_sample, tables)
    return Survey(known_pieces, samples, probed.rests, uncuttable or probed.uncuttable, probed.seconds_per_phase)


def _sizes(samples: int, few: int) -> list[int | None]:
    """Choose so many numbers of samples: a small one, the whole batch, and others between them."""
    small = min(max(_FEWEST, samples // _FEW), samples)
    between = [small * 2**power for power in range(1, few)][: few - 2]
    return sorted({small, *(size for size in between if size < samples), samples})


class _NoTargetError(Exception):
    """No task has a target in so few samples."""


class _Probed(NamedTuple):
    """One run of a probe."""

    pieces: NetworkCosts
    base: int
    rests: Breakdown
    uncuttable: str
    seconds_per_phase: float


def _probe(stage: Stage, variant: str, size: int | None) -> _Probed | None:
    """Run a probe; None where memory ran out."""
    probe, counter = Probe(), OperationCounter()
    watch = Stopwatch(counter.now)
    started = time.perf_counter()
    with listen(watch), counter:
        meter = stage.step(wrapped(probe, variant), samples=size)
    if meter is None:
        return None
    if not anything_ran(watch.phases):
        raise _NoTargetError
    spent = time.perf_counter() - started
    tasks = stage.parts[1]
    record = meter.result()
    pieces = as_pieces(record.timeline, watch.phases, list(tasks), probe.representation)
    pieces = pieces._replace(heads={name: _with_largest(part, tasks[name]) for name, part in pieces.heads.items()})
    parts = record.categories or Breakdown()
    rests = Breakdown(parts.parameters, parts.buffers, 0, parts.optimizer_state, parts.inputs)
    return _Probed(pieces, record.base_bytes or 0, rests, probe.uncuttable, spent / len(watch.phases))


def _with_largest(part: PartCost, task: Any) -> PartCost:
    """Add the size of the largest gradient among those of a head's parameters."""
    trained = (p for module in modules_of(task) for p in module.parameters(recurse=False) if p.requires_grad)
    return part._replace(largest=float(max((bytes_of(parameter) for parameter in trained), default=0)))
