"""Phases of a schedule in bytes and seconds: the building blocks of the memory and time formulas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mtl_accum.planning._costs import CostTable, NetworkCosts, PartCost

__all__ = [
    "Phase",
    "Tables",
    "backward",
    "backward_seconds",
    "forward",
    "group_equal",
    "group_forwards",
    "heads",
    "join_chunk_gradients",
    "size_groups",
    "trunk_backward",
    "trunk_backward_from_slice",
]


class Phase(NamedTuple):
    """A phase of a schedule.

    Attributes:
        name: Name of the phase, as in a report.
        rise: Bytes from its start to its highest point.
        net: Bytes that it leaves behind; negative where it frees more.
        seconds: Seconds of one run.
        times: Number of runs in a row.
    """

    name: str
    rise: float
    net: float
    seconds: float = 0.0
    times: int = 1


class Tables(NamedTuple):
    """Costs of a network for every variant of its trunk.

    Attributes:
        base: Bytes that are live whatever the schedule, for a batch of no samples.
        inputs: Bytes of one sample of the batch.
        trunk: Costs by variant of the trunk: "", "checkpointed", "offloaded", "offloaded, checkpointed".
        variant: Variant in use.
        per_graph: Seconds that a head's own backward costs beyond its share of a common one.
    """

    base: float
    inputs: float
    trunk: dict[str, CostTable]
    variant: str = ""
    per_graph: float = 0.0

    def at(self, samples: int) -> NetworkCosts:
        """Return the costs at a number of samples."""
        return self.trunk[self.variant].at(samples)

    def with_timings(self, timings: dict[str, CostTable], per_graph: float) -> Tables:
        """Return the same bytes with other seconds.

        Args:
            timings: Seconds by variant. A variant that was not timed, since it does not fit, takes another's.
            per_graph: Seconds that a head's own backward costs.
        """
        fallback = next(iter(timings.values()))
        trunk = {name: table.with_timings(timings.get(name, fallback)) for name, table in self.trunk.items()}
        return self._replace(trunk=trunk, per_graph=per_graph)

    def within(self, wrapper: str) -> Tables:
        """Return the same costs with another wrapper around the trunk.

        Args:
            wrapper: "checkpointed" or "offloaded".
        """
        return self._replace(variant=", ".join(filter(None, (self.variant, wrapper))))


def forward(name: str, part: PartCost) -> Phase:
    """Return the forward of a part, with its graph."""
    return Phase(f"{name} forward", part.forward_rise, part.kept, part.forward_seconds)


def backward(name: str, part: PartCost, first: bool) -> Phase:
    """Return the backward of a part, which creates the part's gradients or adds to them."""
    rise = part.backward_rise if first else part.again_rise
    return Phase(f"{name} backward", rise, first * part.gradients - part.kept, part.backward_seconds)


def trunk_backward(costs: NetworkCosts, first: bool, *, cut: bool = True) -> Iterator[Phase]:
    """Return the backward of the trunk from the accumulated dL/dz, which it frees.

    Args:
        costs: Costs of the network.
        first: Whether the backward creates the gradients.
        cut: Whether dL/dz is accumulated in leaves, in float32 for a 16-bit trunk, and is cast for the backward.
    """
    phase = backward("trunk", costs.trunk, first)
    if cut and costs.accumulates_in_float32:
        yield Phase(phase.name, costs.term, costs.term - costs.cotangent)
    yield phase._replace(net=phase.net - costs.term)


def trunk_backward_from_slice(costs: NetworkCosts, first: bool) -> Iterator[Phase]:
    """Return the backward of the trunk from a slice of dL/dz, which outlives it.

    A slice in float32 is cast for a 16-bit trunk, and the cast is freed once it has been used.
    """
    phase = backward("trunk", costs.trunk, first)
    if costs.accumulates_in_float32:
        yield Phase(phase.name, costs.term, costs.term)
        yield phase._replace(net=phase.net - costs.term)
    else:
        yield phase._replace(rise=phase.rise + costs.trunk.held_rise - costs.trunk.again_rise)


def heads(
    groups: Sequence[list[str]], tables: Tables, pieces: Iterable[tuple[int, int, bool]], *, cut: bool = True
) -> Iterator[Phase]:
    """Return the forwards and backwards of heads, group by group and piece by piece.

    The heads of a group share a graph. Its backward runs through the last head first, and the first of them creates
    the dL/dz that autograd adds the others to. With a cut the group then hands its dL/dz over to the accumulated one
    of its piece, which the first group creates. Without a cut dL/dz stays in the graph, for the trunk's backward.

    Args:
        groups: Names of the heads that share a graph.
        tables: Costs of the network.
        pieces: Pieces of the batch as (samples, how many in a row, whether they create gradients).
        cut: Whether there is a cut between trunk and heads.
    """
    pieces = list(pieces)
    for number, group in enumerate(groups):
        sums_in_graph = len(group) > 1 or not cut  # else dL/dz is added to the leaves' while the head is in backward
        for size, times, first in pieces:
            costs = tables.at(size)
            in_graph = costs.term if sums_in_graph else 0.0
            yield from group_forwards(group, costs, times)
            for position, name in enumerate(reversed(group)):
                phase = backward(f"head {name}", costs.heads[name], first)
                net = phase.net + (in_graph if position == 0 else 0.0)
                yield phase._replace(net=net, seconds=backward_seconds(phase, name, group, tables), times=times)
            created = times * costs.cotangent if cut and number == 0 else 0.0
            handed_over = in_graph if cut else 0.0
            yield Phase("dL/dz", 0.0, created - handed_over, times=times)


def group_forwards(group: Sequence[str], costs: NetworkCosts, times: int) -> Iterator[Phase]:
    """Return the forwards of heads, each as often in a row as there are equal pieces."""
    for name in group:
        yield forward(f"head {name}", costs.heads[name])._replace(times=times)


def backward_seconds(phase: Phase, name: str, group: Sequence[str], tables: Tables) -> float:
    """Return the seconds of a head's backward; a group pays for its graph once, with its first head."""
    saved = tables.per_graph if name != group[0] else 0.0
    return max(0.0, phase.seconds - saved)


def join_chunk_gradients(costs: NetworkCosts, head_chunks: int) -> Iterator[Phase]:
    """Return the concatenation of the head chunks' dL/dz; nothing for a single chunk."""
    if head_chunks > 1:
        yield Phase("trunk backward", costs.cotangent, 0.0)


def size_groups(samples: int, count: int, first: bool) -> Iterator[tuple[int, int, bool]]:
    """Cut a number of samples into so many pieces, and group them; see `group_equal`."""
    return group_equal(samples, max(1, -(-samples // count)), first)


def group_equal(samples: int, size: int, first: bool) -> Iterator[tuple[int, int, bool]]:
    """Group the pieces of a batch: the first one, those of its size after it, and the last one, which may be shorter.

    The pieces are not listed: the largest batch of a small network can have millions.

    Args:
        samples: Number of samples of the batch.
        size: Number of samples of a piece.
        first: Whether the first piece creates the gradients.

    Yields:
        Samples of a piece, number of such pieces in a row, and whether they create the gradients.
    """
    pieces = -(-samples // size)
    yield min(size, samples), 1, first
    if pieces > 2:
        yield size, pieces - 2, False
    if pieces > 1:
        yield samples - (pieces - 1) * size, 1, False
