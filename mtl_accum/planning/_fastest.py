"""Which of several timed schedules to take, where every measurement may be off.

The schedules take turns, so a round has one measurement of each, taken within the same moments. One schedule counts
as faster than another if it is so in more rounds than chance explains: whatever a busy machine does to a single
measurement, or to all of a round, it cannot make the slower one win nearly every round.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from statistics import median

__all__ = ["WORTH", "fastest", "surely_faster"]

WORTH = 0.97  # of a simpler schedule's time: less than that is not worth more pieces
_DOUBT = 1 / 32  # probability that schedules which are equally fast give such a result


def surely_faster(seconds: Sequence[float], than: Sequence[float], worth: float = 1.0) -> bool:
    """Tell whether one schedule is faster than another, by a sign test over the rounds in which both ran.

    Args:
        seconds: Seconds of a schedule, by round.
        than: Seconds of the other, by round.
        worth: Share of the other's time that it has to stay below.
    """
    rounds = list(zip(seconds, than, strict=False))
    wins = sum(one < worth * other for one, other in rounds)
    by_chance: float = sum(comb(len(rounds), count) for count in range(wins, len(rounds) + 1)) / 2.0 ** len(rounds)
    return by_chance <= _DOUBT


def fastest(rows: Sequence[Sequence[float]]) -> tuple[int, list[int]]:
    """Choose the simplest schedule that none is surely faster than, and that no simpler one measures faster than.

    Args:
        rows: Seconds by round of every schedule, simplest first.

    Returns:
        The index of the choice, and those of the schedules that cannot be told from it.
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
