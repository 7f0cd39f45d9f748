"""Fast access to the states of Python's and numpy's global generators.

`random.getstate` and `numpy.random.get_state` cost as much as a small layer. Here a generator's state is read again
only if some of its bytes have changed. Both generators are Mersenne twisters: 624 words and a position in them. A draw
changes the position; a new round of words, or a seed, changes all of them. So the position and 32 words identify a
state.
"""

from __future__ import annotations

import ctypes
import random
import sys
from importlib import import_module
from typing import Any

__all__ = ["numpy_state", "python_state", "set_numpy_state", "set_python_state"]

_WORD = 4  # bytes
_READ = 33 * _WORD  # the position, and 32 of the words beside it
_CACHE: dict[str, tuple[Any, Any]] = {}  # by library: what identified the state that was read last, and that state


def python_state() -> Any:
    """Return the state of Python's global generator, the same object as before if nothing was drawn since."""
    generator = getattr(random.getstate, "__self__", None)
    if type(generator) is not random.Random or sys.implementation.name != "cpython":
        return random.getstate()
    words = ctypes.string_at(id(generator) + object.__basicsize__, _READ)  # behind the object's header
    key = words, generator.gauss_next  # type: ignore[attr-defined]  # missing in typeshed
    cached = _CACHE.get("python")
    if cached is None or cached[0] != key:
        cached = _CACHE["python"] = key, random.getstate()
    return cached[1]


def numpy_state() -> Any:
    """Return the state of numpy's global generator, None if numpy has not been imported.

    The same object as before if nothing was drawn since. The words do not contain a second normal number that waits to
    be drawn, so a state that holds one is always read.
    """
    numbers = getattr(sys.modules.get("numpy"), "random", None)  # absent while numpy is being imported
    if numbers is None:
        return None
    generator: Any = getattr(numbers, "get_bit_generator", lambda: None)()
    if type(generator).__name__ != "MT19937":
        return numbers.get_state(legacy=False)
    end = generator.ctypes.state_address + 625 * _WORD  # the position stands behind the words
    key = generator, ctypes.string_at(end - _READ, _READ)
    cached = _CACHE.get("numpy")
    if cached is None or cached[0] != key or cached[1][3]:
        cached = _CACHE["numpy"] = key, numbers.get_state()
    return cached[1]


def set_python_state(state: Any) -> None:
    """Set the state of Python's global generator, unless it is there already."""
    if python_state() is not state:
        random.setstate(state)


def set_numpy_state(state: Any) -> None:
    """Set the state of numpy's global generator, unless it is there already."""
    if numpy_state() is not state:
        import_module("numpy").random.set_state(state)
        _CACHE.pop("numpy", None)  # the new state may differ from the cached one in the waiting number alone
