"""Straight line of least squares through points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

__all__ = ["Line", "fit"]


@dataclass(frozen=True)
class Line:
    """y = intercept + slope * x.

    Attributes:
        slope: Slope of the line.
        intercept: Value at x = 0.
        r2: Share of the variance of y that the line explains; None where y does not vary.
    """

    slope: float
    intercept: float
    r2: float | None


def fit(xs: Sequence[float], ys: Sequence[float]) -> Line | None:
    """Return the line of least squares; None through fewer than two different x.

    Raises:
        ValueError: The numbers of xs and ys differ.
    """
    if len(xs) != len(ys):
        raise ValueError(f"ys must be as many as xs, found {len(ys)} and {len(xs)}")
    if len(set(xs)) < 2:
        return None
    x_mean, y_mean = fsum(xs) / len(xs), fsum(ys) / len(ys)
    covariance = fsum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    slope = covariance / fsum((x - x_mean) ** 2 for x in xs)
    intercept = y_mean - slope * x_mean
    scatter = fsum((y - y_mean) ** 2 for y in ys)
    left = fsum((y - intercept - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    return Line(slope, intercept, 1 - left / scatter if scatter else None)
