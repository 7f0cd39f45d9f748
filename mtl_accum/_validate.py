"""Rules for values that a user writes: each refuses a wrong value in one line, with the name and the right values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "SIZE",
    "UNITS",
    "Rule",
    "boolean",
    "device",
    "either",
    "fraction",
    "natural",
    "not_negative",
    "number",
    "one_of",
    "pair",
    "positive",
    "positive_int",
    "probability",
    "require_callables",
    "selector",
    "selectors",
    "share",
    "size",
    "small_int",
    "small_natural",
    "text",
    "workers",
]

UNITS = {"B": 1}
UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("kMGT", 1)}
UNITS |= {f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)}
SIZE = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(UNITS)}|%)")  # size of memory: a number and a unit, or a share
_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,4})?")
_SMALL, _MOST_WORKERS = 10_000, 1024  # far beyond any use, and small enough that no machine hangs
_INTEGERS = 2**63  # torch's integers are from minus this to this
_SHOWN = 200  # characters of a wrong value


@dataclass(frozen=True)
class Rule:
    """Requirement on a value; called with the value's name and the value.

    Attributes:
        expected: Description of the right values.
        met: Function that returns whether a value is right.
        link: Punctuation between the description and the wrong value.

    Raises:
        ValueError: The value is wrong.
    """

    expected: str
    met: Callable[[Any], bool]
    link: str = ", "

    def __call__(self, name: str, value: Any) -> None:
        """Raise ValueError with one line unless the value is right."""
        if not self.met(value):
            raise ValueError(f"{name} must be {self.expected}{self.link}found {f'{value!r}':.{_SHOWN}}")

    def or_null(self) -> Rule:
        """Return the rule that also accepts None."""
        return Rule(f"{self.expected}, or null", lambda value: value is None or self.met(value), "; ")


def one_of(*choices: str) -> Rule:
    """Return the rule that accepts these texts."""
    return Rule(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices, "; ")


def either(one: str, other: str) -> Rule:
    """Return the rule that accepts these two texts."""
    return Rule(f"{one} or {other}", lambda value: isinstance(value, str) and value in (one, other), "; ")


def small_int(name: str, value: Any) -> None:
    """Raise ValueError unless a value is a positive integer that no machine hangs on, e.g. a number of layers."""
    positive_int(name, value)
    _at_most(name, value)


def small_natural(name: str, value: Any) -> None:
    """Raise ValueError unless a value is 0, or accepted by `small_int`."""
    natural(name, value)
    _at_most(name, value)


def require_callables(**functions: object) -> None:
    """Raise TypeError, naming the argument, unless all are callable; a null is usually a missing `_partial_`."""
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{name} must be callable, found {f'{function!r}':.{_SHOWN}}; see _partial_")


def _integer(value: Any, least: int, most: int = _INTEGERS - 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _integer(value, -_INTEGERS)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return isinstance(value, Hashable)


def _selector(value: Any) -> bool:
    return callable(value) or _hashable(value)


def _selectors(value: Any) -> bool:
    if callable(value) or isinstance(value, str | bytes):
        return True
    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(name, str) and _selectors(inner) for name, inner in value.items())
    return all(map(_selectors, value)) and len(value) > 0 if isinstance(value, Sequence) else _hashable(value)


def _size(value: Any) -> bool:
    if not isinstance(value, str):
        return _integer(value, 1)
    match = SIZE.fullmatch(value.strip())
    if match is None:
        return value.strip() == "auto"
    return 0 < float(match[1]) <= (100 if match[2] == "%" else math.inf)


boolean = Rule("true or false", lambda value: isinstance(value, bool))
text = Rule("text", lambda value: isinstance(value, str) and value != "")
positive_int = Rule("a positive integer", lambda value: _integer(value, 1))
natural = Rule("an integer from 0 to 2**63 - 1", lambda value: _integer(value, 0))
_at_most = Rule(f"at most {_SMALL}", lambda value: value <= _SMALL)
workers = Rule(f"an integer from 0 to {_MOST_WORKERS}", lambda value: _integer(value, 0, _MOST_WORKERS))
number = Rule("a finite number", _number)
not_negative = Rule("a number of at least 0", lambda value: _number(value) and value >= 0)
positive = Rule("a number above 0", lambda value: _number(value) and value > 0)
fraction = Rule("a number between 0 and 1", lambda value: _number(value) and 0 < value < 1)
share = Rule("a number from 0 to 1, 1 excluded", lambda value: _number(value) and 0 <= value < 1, "; ")
probability = Rule("a number from 0 to 1", lambda value: _number(value) and 0 <= value <= 1)
pair = Rule("two numbers", lambda value: isinstance(value, list | tuple) and len(value) == 2)
selector = Rule("a key of the batch or a callable of it", _selector)
selectors = Rule(
    "a key of the batch, a callable of it, or a mapping (by the names of keywords) or tuple of these", _selectors
)
device = Rule("auto, cpu, cuda or cuda:N", lambda value: isinstance(value, str) and bool(_DEVICE.fullmatch(value)))
size = Rule("a size such as 6GiB or 6GB, a share such as 80%, or auto", _size, "; ")
