"""Search for the largest number that passes a test, by doubling and bisection."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["largest"]


def largest(fits: Callable[[int], bool], *, cap: int, start: int = 1, resolution: float = 0.0) -> int:
    """Return the largest number from 1 to the cap that fits, 0 if none does.

    Whatever is below a number that fits is taken to fit. A number is never tried twice.

    Args:
        fits: Test of a number; each call may be costly.
        cap: Largest number to try.
        start: First number to try; a start near the answer saves trials.
        resolution: Largest relative gap between the answer and the next number that does not fit.

    Raises:
        ValueError: cap, start or resolution is out of range.
    """
    if cap < 1 or start < 1 or resolution < 0:
        raise ValueError(f"cap and start must be at least 1, resolution at least 0; found {cap}, {start}, {resolution}")
    low, high, number = 0, cap + 1, min(start, cap)  # low fits, high does not
    while number and low < number < high:  # double, or halve, until the answer is between two trials
        if fits(number):
            low, number = number, min(2 * number, cap)
        else:
            high, number = number, number // 2
        if low and high <= cap:
            break
    while high - low > max(1, resolution * low):
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
