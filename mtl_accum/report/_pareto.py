"""Pareto front of schedules: those to which no other is both faster and smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["pareto_front"]

_T = TypeVar("_T")


def pareto_front(items: Iterable[_T], cost: Callable[[_T], tuple[float, float]]) -> list[_T]:
    """Return the items that no other one beats in both costs, the smallest first cost first.

    Args:
        items: Items to choose from; of several with equal costs the first one is kept.
        cost: Function that returns an item's costs, e.g. seconds and bytes.
    """
    front: list[_T] = []
    for item in sorted(items, key=cost):
        if not front or cost(item)[1] < cost(front[-1])[1]:
            front.append(item)
    return front
