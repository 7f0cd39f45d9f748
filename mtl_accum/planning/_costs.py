"""Costs of a network's parts at one number of samples, and the table that interpolates between several."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from mtl_accum._torch_pytree import tree_map

__all__ = ["CostTable", "NetworkCosts", "PartCost", "with_all_heads"]


class PartCost(NamedTuple):
    """Costs of the trunk or of a head, in bytes and seconds.

    A rise is the distance from the live bytes at the start of a pass to its highest point.

    Attributes:
        forward_rise: Rise of the forward.
        kept: Bytes that the forward leaves for the backward; for the trunk, with the representation.
        backward_rise: Rise of a backward that creates the gradients.
        again_rise: Rise of a backward that adds to existing gradients.
        held_rise: For the trunk, `again_rise` where dL/dz outlives the backward.
        gradients: Bytes of the gradients of the part's parameters, which its first backward creates.
        largest: Bytes of the largest of these gradients.
        forward_seconds: Seconds of the forward.
        backward_seconds: Seconds of the backward.
    """

    forward_rise: float = 0.0
    kept: float = 0.0
    backward_rise: float = 0.0
    again_rise: float = 0.0
    held_rise: float = 0.0
    gradients: float = 0.0
    largest: float = 0.0
    forward_seconds: float = 0.0
    backward_seconds: float = 0.0


class NetworkCosts(NamedTuple):
    """Costs of all parts of a network at one number of samples.

    Attributes:
        trunk: Costs of the trunk with its graph.
        blind: Costs of the trunk without a graph: a forward only.
        heads: Costs of the heads of the present tasks, by name.
        representation: Bytes of the representation.
        cotangent: Bytes of the accumulated dL/dz, which is float32 for a 16-bit representation.
        optimizer: Costs of the optimizer's step, as a forward.
        loose: Bytes of the representation that the trunk's own graph does not keep: they are freed with the last
            outside reference.
        term: Bytes of dL/dz in the dtype of the representation, as autograd computes it: half of `cotangent` for a
            16-bit representation, else equal to it.
    """

    trunk: PartCost
    blind: PartCost
    heads: dict[str, PartCost]
    representation: float
    cotangent: float
    optimizer: PartCost
    loose: float = 0.0
    term: float = 0.0

    @property
    def accumulates_in_float32(self) -> bool:
        """Whether dL/dz is accumulated in a wider dtype than the representation's."""
        return self.term < self.cotangent


class CostTable:
    """Costs of a network at any number of samples, interpolated from a few known ones.

    Every figure is piecewise linear in the number of samples. That is exact where the figure is affine, as the size of
    every tensor with the samples in one dimension is, and too high where it is convex, as the maximum of several such
    sums is.

    Args:
        known: Pairs of a number of samples and the costs there.
        timings: Table whose seconds replace those of `known`; None keeps them.
    """

    def __init__(self, known: Iterable[tuple[int, NetworkCosts]], timings: CostTable | None = None) -> None:
        self._known = dict(sorted(known))
        self._sizes = list(self._known)
        self._timings = timings
        self.at = lru_cache(maxsize=None)(self._at)

    def with_timings(self, timings: CostTable) -> CostTable:
        """Return a table with the bytes of this one and the seconds of another."""
        return CostTable(self._known.items(), timings)

    def _at(self, samples: int) -> NetworkCosts:
        """Return the costs at a number of samples."""
        costs = self._interpolate(samples)
        return costs if self._timings is None else _with_seconds(costs, self._timings.at(samples))

    def _interpolate(self, samples: int) -> NetworkCosts:
        """Interpolate between the two nearest known sizes, or extrapolate from the last two."""
        if samples in self._known or len(self._sizes) == 1:
            return self._known.get(samples, self._known[self._sizes[0]])
        high = min(max(bisect.bisect(self._sizes, samples), 1), len(self._sizes) - 1)
        below, above = self._sizes[high - 1], self._sizes[high]
        share = (samples - below) / (above - below)
        return tree_map(lambda a, b: max(0.0, a + share * (b - a)), self._known[below], self._known[above])  # type: ignore[no-any-return]


def with_all_heads(known: Mapping[int, NetworkCosts]) -> list[tuple[int, NetworkCosts]]:
    """Complete the heads at every size: a head without a target in few samples takes its costs at the next larger size.

    Args:
        known: Costs by number of samples.
    """
    complete: list[tuple[int, NetworkCosts]] = []
    for size in sorted(known, reverse=True):
        heads = complete[-1][1].heads | known[size].heads if complete else known[size].heads
        complete.append((size, known[size]._replace(heads=heads)))
    return complete


def _with_seconds(costs: NetworkCosts, timings: NetworkCosts) -> NetworkCosts:
    def timed(part: PartCost, timing: PartCost) -> PartCost:
        return part._replace(forward_seconds=timing.forward_seconds, backward_seconds=timing.backward_seconds)

    return costs._replace(
        trunk=timed(costs.trunk, timings.trunk),
        blind=timed(costs.blind, timings.blind),
        heads={name: timed(head, timings.heads[name]) for name, head in costs.heads.items()},
        optimizer=timed(costs.optimizer, timings.optimizer),
    )
