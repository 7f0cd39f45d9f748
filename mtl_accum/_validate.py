"""Checks of values that come from a configuration: one line that names what is wrong and what would be right."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["fraction", "natural", "not_negative", "positive", "positive_int"]


def positive_int(name: str, value: Any) -> None:
    """Raise ValueError unless value is an integer of at least 1."""
    _check(name, value, "a positive integer", isinstance(value, int) and value >= 1)


def natural(name: str, value: Any) -> None:
    """Raise ValueError unless value is an integer of at least 0 that fits into 64 bits."""
    _check(name, value, "an integer from 0 to 2**63 - 1", isinstance(value, int) and 0 <= value < 2**63)


def not_negative(name: str, value: Any) -> None:
    """Raise ValueError unless value is a finite number of at least 0."""
    _check(name, value, "a number of at least 0", isinstance(value, int | float) and 0 <= value < math.inf)


def positive(name: str, value: Any) -> None:
    """Raise ValueError unless value is a finite number above 0."""
    _check(name, value, "a number above 0", isinstance(value, int | float) and 0 < value < math.inf)


def fraction(name: str, value: Any) -> None:
    """Raise ValueError unless value is a number between 0 and 1, both excluded."""
    _check(name, value, "a number between 0 and 1", isinstance(value, int | float) and 0 < value < 1)


def _check(name: str, value: Any, expected: str, met: bool) -> None:
    if not met or isinstance(value, bool):
        raise ValueError(f"{name} must be {expected}, found {value!r}")
