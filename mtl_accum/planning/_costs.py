"""What one part of the network needs at one number of samples, and the table that interpolates between them."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from torch.utils._pytree import tree_map

__all__ = ["CostTable", "NetworkCosts", "PartCost", "with_all_heads"]


class PartCost(NamedTuple):
    """The trunk or a head, in bytes and seconds.

    Attributes:
        forward_rise: how far its forward goes above what was live when it began.
        kept: what its forward leaves for the backward; the representation too, if it is the trunk.
        backward_rise: how far its backward goes above what was live when it began, from no gradients.
        again_rise: the same where the gradients are there and are added to.
        held_rise: the same again, of the trunk, where dL/dz does not die when it has been used.
        gradients: of its parameters, which the first backward makes.
        largest: of these, the one that is largest.
        forward_seconds: the forward's time.
        backward_seconds: the backward's time.
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
    """The parts of a network at one number of samples.

    Attributes:
        trunk: with its graph.
        blind: the trunk without a graph, forward only.
        heads: by the task's name; of the tasks that are present.
        representation: bytes of it.
        cotangent: bytes of dL/dz, as it adds up.
        optimizer: its step, as a forward.
        loose: bytes of the representation that the trunk's own graph does not keep: gone where nobody else holds it.
    """

    trunk: PartCost
    blind: PartCost
    heads: dict[str, PartCost]
    representation: float
    cotangent: float
    optimizer: PartCost
    loose: float = 0.0


class CostTable:
    """Pieces at some numbers of samples, and in between.

    Every figure is piecewise linear in the number of samples: exact where it is affine, as the size of every tensor
    with the samples in one dimension is, and from above where it is convex, as the highest of several such sums.

    Args:
        known: by the number of samples.
        clock: where the seconds come from; None takes those that are known here.
    """

    def __init__(self, known: Iterable[tuple[int, NetworkCosts]], clock: CostTable | None = None) -> None:
        self._known = dict(sorted(known))
        self._sizes = list(self._known)
        self._clock = clock
        self.at = lru_cache(maxsize=None)(self._at)

    def timed_by(self, clock: CostTable) -> CostTable:
        """The same bytes with other seconds."""
        return CostTable(self._known.items(), clock)

    def _at(self, samples: int) -> NetworkCosts:
        """Between the two numbers that are nearest; beyond the largest, as between the last two."""
        found = self._between(samples)
        return found if self._clock is None else _with_seconds(found, self._clock.at(samples))

    def _between(self, samples: int) -> NetworkCosts:
        if samples in self._known or len(self._sizes) == 1:
            return self._known.get(samples, self._known[self._sizes[0]])
        high = min(max(bisect.bisect(self._sizes, samples), 1), len(self._sizes) - 1)
        below, above = self._sizes[high - 1], self._sizes[high]
        share = (samples - below) / (above - below)
        return tree_map(lambda a, b: max(0.0, a + share * (b - a)), self._known[below], self._known[above])  # type: ignore[no-any-return]


def with_all_heads(known: Mapping[int, NetworkCosts]) -> list[tuple[int, NetworkCosts]]:
    """Complete the heads: one that found no target in so few samples counts as in the next larger number."""
    complete: list[tuple[int, NetworkCosts]] = []
    for size in sorted(known, reverse=True):
        heads = complete[-1][1].heads | known[size].heads if complete else known[size].heads
        complete.append((size, known[size]._replace(heads=heads)))
    return complete


def _with_seconds(pieces: NetworkCosts, clock: NetworkCosts) -> NetworkCosts:
    def timed(part: PartCost, by: PartCost) -> PartCost:
        return part._replace(forward_seconds=by.forward_seconds, backward_seconds=by.backward_seconds)

    return pieces._replace(
        trunk=timed(pieces.trunk, clock.trunk),
        blind=timed(pieces.blind, clock.blind),
        heads={name: timed(head, clock.heads[name]) for name, head in pieces.heads.items()},
        optimizer=timed(pieces.optimizer, clock.optimizer),
    )
