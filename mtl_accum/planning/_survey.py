"""All that is known of a network, from a few runs on tensors without data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from mtl_accum.editions._phase import listening
from mtl_accum.editions._pieces import samples_of
from mtl_accum.memory import Breakdown
from mtl_accum.memory._rehearsal import Rehearsal
from mtl_accum.planning._formula import Tables
from mtl_accum.planning._operations import OperationCounter
from mtl_accum.planning._pieces import Pieces, Table
from mtl_accum.planning._probe import Probe, Stopwatch, as_pieces, bytes_of, wrapped

__all__ = ["Survey", "survey"]

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


def survey(rehearsal: Rehearsal, variants: Sequence[str]) -> Survey:
    """Probe a network at the size of the batch and at a small one.

    Args:
        rehearsal: inside its block.
        variants: what may be done with the trunk: "", "checkpointed", "offloaded", "offloaded, checkpointed".

    Raises:
        PredictionError: the step does not run on tensors without data.
    """
    _, tasks, batch, _ = rehearsal.parts
    uncuttable = ""
    try:
        samples = samples_of(batch, "batch")
        sizes: list[int | None] = sorted({min(max(_FEWEST, samples // _FEW), samples), samples})  # type: ignore[assignment]
    except (TypeError, ValueError) as error:
        samples, sizes, uncuttable = 1, [None], str(error)
    tables: dict[str, Table] = {}
    for variant in variants:
        known: list[tuple[int, Pieces]] = []
        for size in sizes:
            probe, counter = Probe(), OperationCounter()
            watch = Stopwatch(counter.now)
            started = time.perf_counter()
            with listening(watch), counter:
                meter = rehearsal.step(wrapped(probe, variant), samples=size)
            spent = time.perf_counter() - started
            found = meter.result()
            pieces = as_pieces(found.timeline, watch.phases, list(tasks), probe.representation)
            known.append((size or samples, pieces))
        tables[variant] = Table(known)
    base, parts = found.base_bytes or 0, found.categories or Breakdown()
    rests = Breakdown(parts.parameters, parts.buffers, 0, parts.optimizer_state, parts.inputs)
    per_sample = bytes_of(batch) / samples if sizes != [None] else 0.0
    known_pieces = Tables(base - per_sample * samples, per_sample, tables)
    return Survey(known_pieces, samples, rests, uncuttable or probe.uncuttable, spent / len(watch.phases))
