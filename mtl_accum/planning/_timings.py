"""Short real runs of the pieces, to time every schedule by its formula."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from statistics import median

from torch.utils._pytree import tree_map

from mtl_accum.editions import Split, SummedLoss
from mtl_accum.editions._engine import listen, take
from mtl_accum.memory import Parts, TrainingStep, is_out_of_memory, recover, wall_clock
from mtl_accum.planning._costs import CostTable, NetworkCosts, with_all_heads
from mtl_accum.planning._formula import Tables, estimate
from mtl_accum.planning._probe import Probe, Stopwatch, anything_ran, as_pieces, wrapped

__all__ = ["PATIENCE", "piece_sizes", "ran", "time_graph", "time_pieces", "timed"]

_HALVINGS = 7  # the smallest piece is a 64th of the batch, and two samples: batch normalisation refuses one
_ROUNDS = 5  # of the pieces; the fastest of each counts
PATIENCE = 4.0  # seconds, for the pieces and for the run-off each; one round is always finished


def piece_sizes(tables: Tables, samples: int, budget: int) -> dict[str, list[int | None]]:
    """By the trunk's variant, the whole batch, halves of it and so on, as far as that fits."""
    counts = {samples, *(samples >> power for power in range(_HALVINGS)), 2}
    sizes: list[int] = sorted(count for count in counts if min(2, samples) <= count <= samples)
    if samples == 1:
        return {variant: [None] for variant in tables.trunk}
    return {
        variant: [n for n in sizes if estimate(wrapped(Split(), variant), tables, n).peak_bytes <= budget]
        for variant in tables.trunk
    }


def time_pieces(parts: Parts, sizes: Mapping[str, Sequence[int | None]]) -> dict[str, CostTable]:
    """Seconds of the pieces at some numbers of samples, by running them in turns.

    Args:
        parts: trunk, tasks, batch and optimizer; all of them are changed, see `without_a_trace`.
        sizes: by the trunk's variant, numbers of samples; None is the batch as it is.

    Returns:
        A table without bytes for each variant; none for one of which nothing ran.
    """
    trunk, tasks, batch, optimizer = parts
    seen: dict[str, dict[int, list[NetworkCosts]]] = {variant: {} for variant in sizes}
    turns = [(variant, size) for variant, chosen in sizes.items() for size in chosen]
    deadline = time.perf_counter() + PATIENCE
    for _ in range(_ROUNDS):
        for variant, size in list(turns):
            part = batch if size is None else take(batch, (0, size))
            step = TrainingStep(trunk, tasks, part, optimizer, wrapped(Probe(weigh=False), variant))
            watch = Stopwatch(wall_clock(step.device))
            with listen(watch):
                did = ran(step)
            if did and anything_ran(watch.phases):
                seen[variant].setdefault(size or 1, []).append(as_pieces((), watch.phases, list(tasks), 0))
            else:
                turns.remove((variant, size))
        if time.perf_counter() > deadline:
            break
    return {variant: _table(runs) for variant, runs in seen.items() if runs}


def time_graph(parts: Parts, size: int | None) -> float:
    """Measure the seconds that a backward of its own costs a head: what `Split` takes longer than `SummedLoss`.

    The two take turns, and the median over the rounds counts: whatever slows a single step down is in one round only.
    """
    trunk, tasks, batch, _ = parts
    part = batch if size is None else take(batch, (0, size))
    extra: list[float] = []
    for _ in range(_ROUNDS + 1):
        split, summed = (timed(TrainingStep(trunk, tasks, part, None, edition)) for edition in (Split(), SummedLoss()))
        extra.append(split - summed)
    return max(0.0, median(extra[1:])) / max(1, len(tasks) - 1)  # the first round warms the caches


def _table(runs: Mapping[int, Sequence[NetworkCosts]]) -> CostTable:
    """Tabulate the fastest of the runs of each size."""
    return CostTable(
        with_all_heads({size: tree_map(lambda *seconds: min(seconds), *run) for size, run in runs.items()})
    )


def timed(step: TrainingStep) -> float:
    """Measure the seconds of a step."""
    now = wall_clock(step.device)
    start = now()
    step()
    return now() - start


def ran(step: TrainingStep) -> bool:
    """Run a step; False where memory ran out."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "no task is present")  # in a piece, which the user has not asked for
            step()
        return True
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error)
    step.zero_grad()  # here the error has let go of the step's tensors
    recover(step.device, reason)
    return False
