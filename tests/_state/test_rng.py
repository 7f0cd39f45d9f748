"""States of random number generators: captured and restored exactly, compared, and kept in a checkpoint's form."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mtl_accum._state import RngState, preserved, same_random_numbers
from mtl_accum._state._host_rng import numpy_state, python_state, set_numpy_state, set_python_state

DRAWS = {
    "nothing": lambda: None,
    "torch": lambda: torch.rand(1),
    "python": random.random,
    "python, one of two normal numbers": lambda: random.gauss(0, 1),
    "numpy": np.random.rand,
    "numpy, one of two normal numbers": np.random.randn,
}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with same_random_numbers():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        yield


def numbers() -> list[float]:
    return [torch.rand(()).item(), random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()]


def equal(one: object, other: object) -> bool:
    """Compare two states of numpy's, or of Python's generator."""
    return np.array_equal(np.asarray(one, dtype=object)[0], np.asarray(other, dtype=object)[0]) and all(
        np.array_equal(a, b) for a, b in zip(one, other, strict=True)
    )


def test_host_states_are_read_as_their_own_functions_read_them() -> None:
    """They are cached by words of the generators, beside which a second normal number may wait."""
    draws = [random.random, lambda: random.gauss(0, 1), np.random.rand, np.random.randn, lambda: np.random.seed(4)]
    draws += [lambda: random.seed(4), lambda: None]
    order = random.Random(0)
    for _ in range(1000):
        order.choice(draws)()
        python, numpy = python_state(), numpy_state()
        assert python == random.getstate()
        assert equal(numpy, np.random.get_state())
        order.choice(draws)()
        set_python_state(python)
        set_numpy_state(numpy)
        assert random.getstate() == python == python_state()
        assert equal(np.random.get_state(), numpy)
        assert equal(np.random.get_state(), numpy_state())


@pytest.mark.parametrize("draws", [1, 2, 311, 312, 313, 624, 1248])
def test_a_host_state_is_read_again_after_any_number_of_draws(draws: int) -> None:
    """Two words a draw: 312 draws are a whole round of the 624 words, after which the position is the same again."""
    before = python_state(), numpy_state()
    for _ in range(draws):
        random.random()
        np.random.rand()
    assert python_state() == random.getstate() != before[0]
    assert equal(numpy_state(), np.random.get_state())
    assert not equal(numpy_state(), before[1])


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("waiting", [False, True], ids=["", "a normal number waits"])
def test_every_generator_comes_back(draw: str, waiting: bool) -> None:
    if waiting:
        random.gauss(0, 1)
        np.random.randn()
    state = RngState.capture()
    expected = numbers()
    state.restore()
    DRAWS[draw]()
    assert (RngState.capture() == state) == (draw == "nothing")
    state.restore()
    assert RngState.capture() == state
    assert numbers() == expected
    present = RngState.capture()
    state.restore(present)
    assert numbers() == expected
    present.restore()
    assert RngState.capture() == present


def test_random_numbers_are_the_same_after_an_error() -> None:
    before = RngState.capture()
    for block in (same_random_numbers, preserved):
        with pytest.raises(KeyError), block():
            numbers()
            raise KeyError
        assert RngState.capture() == before


def test_the_generator_of_a_loader() -> None:
    loader = DataLoader(list(range(20)), shuffle=True, generator=torch.Generator().manual_seed(3))  # type: ignore[var-annotated]
    state = RngState.capture(loader)
    first = [int(batch) for batch in loader]
    assert RngState.capture(loader) != state
    saved = state.state_dict()
    assert saved.keys() == {"process", "own"}
    assert saved["process"].keys() == {"torch", "python", "numpy"}  # a checkpoint of an earlier version has the same
    RngState.from_state_dict(saved, loader).restore()
    assert [int(batch) for batch in loader] == first
    state.restore()
    assert [int(batch) for batch in loader] == first


def test_a_loader_without_a_generator_draws_from_the_process() -> None:
    loader = DataLoader(list(range(20)), shuffle=True)  # type: ignore[var-annotated]
    state = RngState.capture(loader).state_dict()
    assert state["own"] is None
    first = [int(batch) for batch in loader]
    RngState.from_state_dict(state, loader).restore()
    assert [int(batch) for batch in loader] == first


def test_another_bit_generator_of_numpy() -> None:
    before = np.random.get_bit_generator()  # type: ignore[attr-defined]
    np.random.set_bit_generator(np.random.PCG64(1))  # type: ignore[attr-defined]
    try:
        state = RngState.capture()
        expected = np.random.rand(3)
        assert RngState.capture() != state
        state.restore()
        assert RngState.capture() == state
        assert np.array_equal(np.random.rand(3), expected)
    finally:
        np.random.set_bit_generator(before)  # type: ignore[attr-defined]
