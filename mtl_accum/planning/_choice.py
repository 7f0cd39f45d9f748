"""From the pieces of a network to a ranking of all schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from mtl_accum.editions import Edition
from mtl_accum.memory import Breakdown
from mtl_accum.planning._form import without_form
from mtl_accum.planning._formula import Estimate, Tables, estimate
from mtl_accum.planning._result import LargestBatch, Schedule

__all__ = [
    "CLOSE",
    "Candidate",
    "largest_batches",
    "pareto",
    "promising",
    "ranked",
    "schedule",
    "what_helps",
    "what_holds",
]

_SLACK = 1.05  # formulas are up to that far above a direct prediction, which decides
CLOSE = 1.15  # times the fastest one's seconds: formulas were that far off
_DOUBTFUL = 8  # so many are asked about
_NO_LIMIT = 2**40  # samples


class Candidate(NamedTuple):
    """A candidate and what the formula says of it."""

    edition: Edition
    estimate: Estimate


def ranked(editions: Iterable[Edition], tables: Tables, samples: int) -> list[Candidate]:
    """Candidates with their estimates, fastest first; of equals the simpler one, which comes first in the list."""
    options = [Candidate(edition, estimate(edition, tables, samples)) for edition in editions]
    return sorted(options, key=lambda option: option.estimate.seconds)


def promising(options: Sequence[Candidate], budget: int, fits: Callable[[Candidate], bool]) -> list[Candidate]:
    """Those that fit by their estimates, and those that do all the same among a few that nearly do and are as fast.

    Args:
        options: fastest first.
        budget: in bytes.
        fits: asked about the latter.
    """
    certain = [option for option in options if option.estimate.peak_bytes <= budget]
    limit = CLOSE * certain[0].estimate.seconds if certain else math.inf
    near = (o for o in options if budget < o.estimate.peak_bytes <= _SLACK * budget and o.estimate.seconds < limit)
    found = [option for option in islice(near, _DOUBTFUL) if fits(option)]
    return sorted([*certain, *found], key=lambda option: option.estimate.seconds)


def pareto(options: Sequence[Candidate], summed: Estimate) -> tuple[Schedule, ...]:
    """Those than which none is both faster and smaller, fastest first."""
    front: list[Candidate] = []
    for option in sorted(options, key=lambda option: (option.estimate.seconds, option.estimate.peak_bytes)):
        if not front or option.estimate.peak_bytes < front[-1].estimate.peak_bytes:
            front.append(option)
    return tuple(schedule(option, summed) for option in front)


def schedule(option: Candidate, summed: Estimate) -> Schedule:
    """An option, relative to the summed loss."""
    ratio = option.estimate.seconds / summed.seconds if summed.seconds else 1.0
    return Schedule(option.edition, option.estimate.peak_bytes, ratio)


def largest_batches(options: Iterable[Candidate], tables: Tables, budget: int) -> tuple[LargestBatch, ...]:
    """By the kind of schedule, the largest batch that the one which needs least can take."""
    frugal: dict[str, Candidate] = {}
    for option in options:
        kind = type(without_form(option.edition)).__name__
        if kind not in frugal or option.estimate.peak_bytes < frugal[kind].estimate.peak_bytes:
            frugal[kind] = option

    def fits(edition: Edition) -> Callable[[int], bool]:
        return lambda samples: estimate(edition, tables, samples).peak_bytes <= budget

    return tuple(LargestBatch(option.edition, _largest(fits(option.edition))) for option in frugal.values())


def what_holds(rests: Breakdown, tables: Tables) -> dict[str, int]:
    """What no schedule can do without: what rests, the gradients, and the pieces for one sample."""
    one = tables.at(1)
    largest = max(one.heads, key=lambda name: one.heads[name].kept + one.heads[name].forward_rise)
    held = {
        "parameters and buffers": rests.parameters + rests.buffers,
        "optimizer state": rests.optimizer_state,
        "gradients": round(one.trunk.gradients + sum(head.gradients for head in one.heads.values())),
        "the batch": rests.inputs,
        "cuBLAS workspaces": rests.workspaces,
    }
    held = {name: size for name, size in held.items() if size}
    held["one sample's trunk"] = round(max(one.trunk.kept, one.trunk.forward_rise))
    held[f"one sample's largest head ({largest})"] = round(
        max(one.heads[largest].kept, one.heads[largest].forward_rise)
    )
    return held


def what_helps(
    holds: dict[str, int], budget: int, left_out: dict[str, str], largest: Iterable[LargestBatch]
) -> Iterator[str]:
    """What a person could change, the most effective first."""
    rests = sum(holds.get(name, 0) for name in ("parameters and buffers", "optimizer state", "gradients"))
    if rests > budget:
        yield (
            "no batch is small enough: parameters, gradients and optimizer state alone are more; fewer or 16-bit "
            "parameters, fewer of them trainable, or sharding them over devices"
        )
    if holds.get("optimizer state", 0) > 0:
        yield "an optimizer with less state (SGD has none without momentum)"
    if any("batch statistics" in reason for reason in left_out.values()):
        yield "to_group_norm(model): without batch statistics the batch can be cut"
    possible = [row for row in largest if row.samples]
    if rests <= budget and possible:
        best = max(possible, key=lambda row: row.samples or 0)
        yield f"a batch of {best.samples} samples"
    yield "smaller samples (image size, sequence length)"


def _largest(fits: Callable[[int], bool]) -> int | None:
    """The largest number for which it is true, if it is true up to there; None if that is beyond all batches."""
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
        if high > _NO_LIMIT:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
