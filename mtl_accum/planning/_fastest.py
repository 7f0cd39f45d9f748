"""Choice of the fastest schedule from noisy timings, by a sign test.

The schedules take turns, so a round has one measurement of each, taken at nearly the same time. A schedule counts as
faster than another if it wins more rounds than chance explains. A busy machine may spoil single measurements or whole
rounds, but it does not let the slower schedule win nearly every round.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from statistics import median

__all__ = ["WORTH", "fastest", "surely_faster"]

WORTH = 0.97  # share of a simpler schedule's time that a complex one must stay below to be worth its pieces
_DOUBT = 1 / 32  # accepted probability that two equally fast schedules give such a result


def surely_faster(seconds: Sequence[float], than: Sequence[float], worth: float = 1.0) -> bool:
    """Return whether one schedule is faster than another, by a sign test over the rounds in which both ran.

    Args:
        seconds: Seconds of a schedule, by round.
        than: Seconds of the other schedule, by round.
        worth: Share of the other's time that a won round stays below.
    """
    rounds = list(zip(seconds, than, strict=False))
    wins = sum(one < worth * other for one, other in rounds)
    by_chance: float = sum(comb(len(rounds), count) for count in range(wins, len(rounds) + 1)) / 2.0 ** len(rounds)
    return by_chance <= _DOUBT


def fastest(rows: Sequence[Sequence[float]]) -> tuple[int, list[int]]:
    """Choose the simplest schedule such that no schedule is surely faster and no simpler one has a smaller median.

    Args:
        rows: Seconds by round of every schedule, simplest first.

    Returns:
        The index of the choice, and those of the schedules that are neither surely faster nor surely slower.
    """
    best = rows[0]
    records = [0]
    for index, row in enumerate(rows):
        if median(row) < median(best):
            best = row
            records.append(index)
    choice = next(index for index in records if not surely_faster(best, rows[index], WORTH))
    ties = [
        index
        for index, row in enumerate(rows)
        if index != choice
        and not surely_faster(row, rows[choice], WORTH)
        and not surely_faster(rows[choice], row, WORTH)
    ]
    return choice, ties
