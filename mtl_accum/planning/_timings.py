"""Timings of trunk and heads on the device, from which the formula gives every schedule's time."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from statistics import median

from mtl_accum._torch_pytree import tree_map
from mtl_accum.editions import Split, SummedLoss
from mtl_accum.editions._engine import listen, take
from mtl_accum.memory import Parts, TrainingStep, free_after_failure, is_out_of_memory, wall_clock
from mtl_accum.planning._costs import CostTable, NetworkCosts, with_all_heads
from mtl_accum.planning._formula import Tables, estimate
from mtl_accum.planning._profile import Profile, with_variant

__all__ = ["PATIENCE", "completes", "sizes_to_time", "step_seconds", "time_graph", "time_parts"]

_HALVINGS = 7  # the smallest size is a 64th of the batch, or two samples: batch normalisation refuses one
_ROUNDS = 5  # the fastest run of each size counts
PATIENCE = 4.0  # seconds, for the parts and for the trials each; one round is always finished


def sizes_to_time(tables: Tables, samples: int, budget: int) -> dict[str, list[int | None]]:
    """Choose the numbers of samples to time: the whole batch, half of it and so on, where they fit.

    Args:
        tables: Costs of the network.
        samples: Number of samples of the batch.
        budget: Budget in bytes.

    Returns:
        Numbers of samples by variant of the trunk; None stands for a batch that cannot be cut.
    """
    counts = {samples, *(samples >> power for power in range(_HALVINGS)), 2}
    sizes: list[int] = sorted(count for count in counts if min(2, samples) <= count <= samples)
    if samples == 1:
        return {variant: [None] for variant in tables.trunk}
    return {
        variant: [n for n in sizes if estimate(with_variant(Split(), variant), tables, n).peak_bytes <= budget]
        for variant in tables.trunk
    }


def time_parts(parts: Parts, sizes: Mapping[str, Sequence[int | None]]) -> dict[str, CostTable]:
    """Time trunk, heads and optimizer at several numbers of samples, which take turns.

    Args:
        parts: Trunk, tasks, batch and optimizer; all of them are changed, see `without_a_trace`.
        sizes: Numbers of samples by variant of the trunk; None stands for the whole batch.

    Returns:
        Table of seconds, without bytes, by variant; a variant of which nothing ran is left out.
    """
    trunk, tasks, batch, optimizer = parts
    clock = wall_clock(TrainingStep(trunk, tasks, batch, optimizer, Split()).device)
    runs: dict[str, dict[int, list[NetworkCosts]]] = {variant: {} for variant in sizes}
    turns = [(variant, size) for variant, chosen in sizes.items() for size in chosen]
    deadline = time.perf_counter() + PATIENCE
    for _ in range(_ROUNDS):
        for variant, size in list(turns):
            samples = batch if size is None else take(batch, (0, size))
            profile = Profile(clock, measure_bytes=False)
            step = TrainingStep(trunk, tasks, samples, optimizer, with_variant(profile, variant))
            with listen(profile):
                completed = completes(step)
            if completed and profile.ran_a_task:
                runs[variant].setdefault(size or 1, []).append(profile.costs(list(tasks)))
            else:
                turns.remove((variant, size))
        if time.perf_counter() > deadline:
            break
    return {variant: _fastest(by_size) for variant, by_size in runs.items() if by_size}


def time_graph(parts: Parts, size: int | None) -> float:
    """Return the seconds that a head's own backward costs: the extra time of `Split` over `SummedLoss` per head.

    The two take turns, and the median over the rounds counts, since a disturbance slows a single round down.

    Args:
        parts: Trunk, tasks, batch and optimizer; the first three are used.
        size: Number of samples; None stands for the whole batch.
    """
    trunk, tasks, batch, _ = parts
    samples = batch if size is None else take(batch, (0, size))
    extra: list[float] = []
    for _ in range(_ROUNDS + 1):
        split, summed = (
            step_seconds(TrainingStep(trunk, tasks, samples, None, edition)) for edition in (Split(), SummedLoss())
        )
        extra.append(split - summed)
    return max(0.0, median(extra[1:])) / max(1, len(tasks) - 1)  # the first round warms the caches


def _fastest(runs: Mapping[int, Sequence[NetworkCosts]]) -> CostTable:
    """Tabulate the fastest run of every part at each size."""
    return CostTable(
        with_all_heads({size: tree_map(lambda *seconds: min(seconds), *run) for size, run in runs.items()})
    )


def step_seconds(step: TrainingStep) -> float:
    """Return the seconds of a step."""
    now = wall_clock(step.device)
    start = now()
    step()
    return now() - start


def completes(step: TrainingStep) -> bool:
    """Run a step, and return whether memory sufficed."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "no task is present")  # in a piece that the user did not choose
            step()
        return True
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error)
    step.zero_grad()  # outside of the handler, where the error's traceback no longer holds the step's tensors
    free_after_failure(step.device, reason)
    return False
