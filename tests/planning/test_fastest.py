"""Which schedule is taken where the clock is noisy: the simpler one, unless another is surely faster."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from mtl_accum.planning._fastest import WORTH, fastest, surely_faster

ROUNDS = 20


def measured(seconds: Any, generator: Any, noise: Any) -> list[Any]:
    """Seconds by round of schedules that take turns: each measurement has its own noise, and each round too."""
    rounds = []
    for _ in range(ROUNDS):
        load = noise(generator)  # whoever else is there slows all of a round down
        rounds.append([true * load * noise(generator) for true in seconds])
    return [list(row) for row in zip(*rounds, strict=True)]


NOISES = {
    "quiet": lambda generator: generator.gauss(1.0, 0.003),
    "busy": lambda generator: 1.0 + abs(generator.gauss(0.0, 0.3)),
    "another process takes the core": lambda generator: 4.0 if generator.random() < 0.2 else 1.0,
}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("seconds", [[1.0, 1.0, 1.0], [1.0, 1.3, 2.0, 74.0], [1.0, 0.99, 1.01], [1.0, 1.5, 1.4]])
def test_nothing_much_slower_than_something_simpler_is_chosen(seconds: Any, noise: str) -> None:
    """Over 200 seeds; the simplest comes first."""
    chosen = [fastest(measured(seconds, random.Random(seed), NOISES[noise]))[0] for seed in range(200)]
    assert all(seconds[choice] <= 1.2 * min(seconds[: choice + 1]) for choice in chosen)
    assert chosen.count(0) >= 0.85 * len(chosen)


@pytest.mark.parametrize("noise", NOISES)
def test_what_is_much_faster_is_chosen(noise: str) -> None:
    seconds = [1.0, 0.3, 0.9]
    chosen = Counter(fastest(measured(seconds, random.Random(seed), NOISES[noise]))[0] for seed in range(200))
    assert chosen[1] >= 160
    assert chosen[2] <= 10


def test_the_same_choice_every_time_on_a_quiet_machine() -> None:
    for seconds in ([1.0, 0.99, 0.985], [1.0, 0.9, 0.905], [1.0, 1.2, 0.8]):
        assert len({fastest(measured(seconds, random.Random(seed), NOISES["quiet"]))[0] for seed in range(50)}) == 1


def test_a_tie_is_what_cannot_be_told_from_the_choice() -> None:
    choice, ties = fastest([[1.0, 1.1, 0.9, 1.0, 1.0, 1.1], [0.99, 1.12, 0.89, 1.01, 1.0, 1.09], [2.0] * 6])
    assert (choice, ties) == (0, [1])


def test_it_never_measures_slower_than_something_simpler() -> None:
    generator = random.Random(0)
    for _ in range(300):
        rows = measured([1.0, 1.05, 0.96, 1.0, 0.94], generator, NOISES["busy"])
        choice, _ = fastest(rows)
        middle = [sorted(row)[ROUNDS // 2 - 1] + sorted(row)[ROUNDS // 2] for row in rows]
        assert all(middle[choice] <= middle[simpler] for simpler in range(choice))


def test_what_counts_as_surely() -> None:
    assert surely_faster([0.9] * 5, [1.0] * 5)
    assert not surely_faster([0.9] * 4, [1.0] * 4)  # one time in sixteen by chance
    assert not surely_faster([0.98] * 5, [1.0] * 5, WORTH)
    assert not surely_faster([1.0] * 20, [1.0] * 20)
    assert surely_faster([0.9] * 16 + [2.0] * 4, [1.0] * 20)
    assert not surely_faster([0.9] * 12 + [2.0] * 8, [1.0] * 20)
