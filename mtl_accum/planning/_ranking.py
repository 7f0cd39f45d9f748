"""Ranking of candidate schedules by the formula: fastest first, those worth a closer look, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from mtl_accum import report
from mtl_accum.editions import Edition
from mtl_accum.planning._formula import Estimate, Tables, estimate
from mtl_accum.planning._result import Schedule

__all__ = ["CLOSE", "Candidate", "pareto_front", "rank", "relative_to", "shortlist"]

_SLACK = 1.05  # estimates are up to that factor above a direct prediction, which decides
CLOSE = 1.15  # factor of the fastest estimate's seconds: estimates were up to that far off
_MOST_DOUBTFUL = 8  # candidates just above the budget that get a direct prediction


class Candidate(NamedTuple):
    """A candidate schedule.

    Attributes:
        edition: Edition that runs the schedule.
        estimate: Memory and time by the formula.
    """

    edition: Edition
    estimate: Estimate


def rank(editions: Iterable[Edition], tables: Tables, samples: int) -> list[Candidate]:
    """Estimate every edition, and sort them, fastest first; of equals the earlier one, which is simpler, comes first.

    Args:
        editions: Editions, simple ones first.
        tables: Costs of the network.
        samples: Number of samples of the batch.
    """
    candidates = [Candidate(edition, estimate(edition, tables, samples)) for edition in editions]
    return sorted(candidates, key=lambda candidate: candidate.estimate.seconds)


def shortlist(candidates: Sequence[Candidate], budget: int, fits: Callable[[Candidate], bool]) -> list[Candidate]:
    """Return the candidates that fit, fastest first.

    Those within the budget by their estimates fit. So do those whose estimate is slightly above it, where they are
    about as fast and `fits` confirms it; only the first few of these are confirmed.

    Args:
        candidates: Candidates, fastest first.
        budget: Budget in bytes.
        fits: Confirmation of a candidate whose estimate is slightly above the budget.
    """
    certain = [candidate for candidate in candidates if candidate.estimate.peak_bytes <= budget]
    limit = CLOSE * certain[0].estimate.seconds if certain else math.inf
    doubtful = (
        candidate
        for candidate in candidates
        if budget < candidate.estimate.peak_bytes <= _SLACK * budget and candidate.estimate.seconds < limit
    )
    confirmed = [candidate for candidate in islice(doubtful, _MOST_DOUBTFUL) if fits(candidate)]
    return sorted([*certain, *confirmed], key=lambda candidate: candidate.estimate.seconds)


def pareto_front(candidates: Sequence[Candidate], summed: Estimate) -> tuple[Schedule, ...]:
    """Return the schedules to which no other is both faster and smaller, fastest first.

    Args:
        candidates: Candidates, in any order.
        summed: Estimate of `SummedLoss`, which times are relative to.
    """
    front = report.pareto_front(candidates, lambda c: (c.estimate.seconds, c.estimate.peak_bytes))
    return tuple(relative_to(summed, candidate) for candidate in front)


def relative_to(summed: Estimate, candidate: Candidate) -> Schedule:
    """Return a candidate with its time relative to that of `SummedLoss`."""
    ratio = candidate.estimate.seconds / summed.seconds if summed.seconds else 1.0
    return Schedule(candidate.edition, candidate.estimate.peak_bytes, ratio)
