"""The states of the global generators that a network may draw from: torch's, Python's and numpy's."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

__all__ = ["HostState", "RandomNumbers", "RandomState", "same_random_numbers"]


class RandomState:
    """The states of torch's default generators, when this was made.

    Args:
        states: Others than those of now.

    Attributes:
        states: Of the CPU's, then of every CUDA device's.
    """

    def __init__(self, states: Sequence[Tensor] | None = None) -> None:
        cuda = torch.cuda.get_rng_state_all() if states is None and torch.cuda.is_initialized() else []
        self.states = [torch.get_rng_state(), *cuda] if states is None else list(states)

    def restore(self) -> None:
        """Put every generator that there is now back to its state."""
        cpu, *cuda = self.states
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda[: torch.cuda.device_count()])


class HostState:
    """The states of Python's and numpy's global generators, when this was made.

    Args:
        python: Another state than that of now.
        numpy: Another state than that of now; None without numpy.
    """

    def __init__(self, python: Any = None, numpy: Any = None) -> None:
        if python is None:
            python, numpy = _python_state(), _numpy_state()
        self.python, self.numpy = python, numpy

    def restore(self) -> None:
        """Put both generators back to this state."""
        random.setstate(self.python)
        if self.numpy is not None:
            import_module("numpy").random.set_state(self.numpy)

    def same_as(self, other: HostState) -> bool:
        """Return whether nothing was drawn between the two."""
        if (self.python is not other.python and self.python != other.python) or (
            (self.numpy is None) != (other.numpy is None)
        ):
            return False
        if self.numpy is other.numpy:
            return True
        pairs = zip(self.numpy or (), other.numpy or (), strict=True)
        return all(bool((mine == theirs).all() if hasattr(mine, "all") else mine == theirs) for mine, theirs in pairs)


_MT19937 = 625 * 4  # bytes of both generators' states: 624 words and the position in them
_LAST: dict[str, Any] = {}  # the bytes of the state that was read last, and that state
_LAST_OF_PYTHON: dict[str, Any] = {}


def _python_state() -> Any:
    """Return the state of Python's global generator, read again only where its bytes have changed; see below."""
    generator = getattr(random.getstate, "__self__", None)
    if type(generator) is not random.Random or sys.implementation.name != "cpython":
        return random.getstate()
    seen = ctypes.string_at(id(generator) + object.__basicsize__, _MT19937)  # behind the object's header
    if _LAST_OF_PYTHON.get("seen") != seen or _LAST_OF_PYTHON["state"][2] is not None:
        _LAST_OF_PYTHON.update(seen=seen, state=random.getstate())
    return _LAST_OF_PYTHON["state"]


def _numpy_state() -> Any:
    """Return the state of numpy's global generator; None if nobody has imported numpy.

    To read it costs as much as a small layer, so it is read again only where its bytes have changed. They do not tell
    of a second normal number that waits to be drawn, so a state that holds one is always read.
    """
    numbers = getattr(sys.modules.get("numpy"), "random", None)  # absent while numpy is being imported
    if numbers is None:
        return None
    generator: Any = getattr(numbers, "get_bit_generator", lambda: None)()
    if type(generator).__name__ != "MT19937":
        return numbers.get_state()
    seen = generator, ctypes.string_at(generator.ctypes.state_address, _MT19937)
    if _LAST.get("seen") != seen or _LAST["state"][3]:
        _LAST.update(seen=seen, state=numbers.get_state())
    return _LAST["state"]


class RandomNumbers:
    """The states of torch's, Python's and numpy's generators, when this was made.

    Args:
        state: Another one than that of now.

    Attributes:
        state: Tensors and plain values by the generators' names.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.state = state or _now()

    def same(self, other: RandomNumbers) -> bool:
        """Return whether all generators are in the same states as in another record."""
        pairs = zip(self.state["torch"], other.state["torch"], strict=True)
        mine, theirs = (HostState(each.state["python"], each.state["numpy"]) for each in (self, other))
        return all(torch.equal(one, two) for one, two in pairs) and mine.same_as(theirs)

    def restore(self) -> None:
        """Put every generator back to this state."""
        RandomState(self.state["torch"]).restore()
        HostState(self.state["python"], self.state["numpy"]).restore()


def _now() -> dict[str, Any]:
    host = HostState()
    return {"torch": RandomState().states, "python": host.python, "numpy": host.numpy}


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Put every generator back at the end: a network's own code may draw."""
    before = RandomNumbers()
    try:
        yield
    finally:
        before.restore()
