"""The phases that schedules are made of, in bytes and seconds, from the pieces of a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mtl_accum.editions._engine import equal_ranges
from mtl_accum.planning._costs import CostTable, NetworkCosts, PartCost

__all__ = [
    "Phase",
    "Tables",
    "alike",
    "backward",
    "cuts_of",
    "forward",
    "heads",
    "landing",
    "term_of",
    "trunk_backward",
    "trunk_backward_from_slice",
]


class Phase(NamedTuple):
    """One phase: its name, bytes and seconds, and how often it comes in a row."""

    name: str
    rise: float
    net: float
    seconds: float = 0.0
    times: int = 1


class Tables(NamedTuple):
    """All that is known of a network.

    Attributes:
        base: bytes that rest for a batch of no samples.
        inputs: bytes of a sample.
        trunk: tables by what is done with the trunk: "", "checkpointed", "offloaded", "offloaded, checkpointed".
        variant: which of them counts.
        per_graph: seconds that a backward of its own costs a head; heads in one graph share it.
    """

    base: float
    inputs: float
    trunk: dict[str, CostTable]
    variant: str = ""
    per_graph: float = 0.0

    def at(self, samples: int) -> NetworkCosts:
        """The pieces at a number of samples."""
        return self.trunk[self.variant].at(samples)

    def timed_by(self, clocks: dict[str, CostTable], per_graph: float) -> Tables:
        """The same bytes with these seconds; a variant that did not run, since it does not fit, has another one's."""
        some = next(iter(clocks.values()))
        trunk = {name: table.timed_by(clocks.get(name, some)) for name, table in self.trunk.items()}
        return self._replace(trunk=trunk, per_graph=per_graph)

    def within(self, what: str) -> Tables:
        """With more done to the trunk."""
        return self._replace(variant=", ".join(filter(None, (self.variant, what))))


def forward(name: str, part: PartCost) -> Phase:
    """Return the forward of a part, with its graph."""
    return Phase(f"{name} forward", part.forward_rise, part.kept, part.forward_seconds)


def backward(name: str, part: PartCost, first: bool) -> Phase:
    """Return the backward of a part, which makes its gradients or adds to them."""
    rise = part.backward_rise if first else part.again_rise
    return Phase(f"{name} backward", rise, first * part.gradients - part.kept, part.backward_seconds)


def trunk_backward(pieces: NetworkCosts, first: bool, *, cut: bool = True) -> Iterator[Phase]:
    """From dL/dz as the leaves hold it; a sum in float32 is cast for a 16-bit trunk."""
    term, phase = term_of(pieces), backward("trunk", pieces.trunk, first)
    if cut and term < pieces.cotangent:
        yield Phase(phase.name, term, term - pieces.cotangent)
    yield phase._replace(net=phase.net - term)


def trunk_backward_from_slice(pieces: NetworkCosts, first: bool) -> Iterator[Phase]:
    """From a slice of dL/dz, which stays; its cast for a 16-bit trunk dies when it has been used."""
    term, phase = term_of(pieces), backward("trunk", pieces.trunk, first)
    if term < pieces.cotangent:
        yield Phase(phase.name, term, term)
        yield phase._replace(net=phase.net - term)
    else:
        yield phase._replace(rise=phase.rise + pieces.trunk.held_rise - pieces.trunk.again_rise)


def term_of(pieces: NetworkCosts) -> float:
    """Bytes of dL/dz as autograd itself sums it: less than in float32 where the representation is 16 bit."""
    in_float32 = pieces.cotangent > 1.5 * pieces.representation  # twice as much, and a few scalars either way
    return pieces.representation if in_float32 else pieces.cotangent


def heads(
    groups: Sequence[list[str]], tables: Tables, cuts: Iterable[tuple[int, int, bool]], *, cut: bool = True
) -> Iterator[Phase]:
    """Heads in groups that share a graph, each over all cuts; a backward goes through its group last head first.

    Without the cut, dL/dz stays what autograd sums within the graph.
    """
    cuts = list(cuts)
    for number, group in enumerate(groups):
        for size, times, fresh in cuts:
            pieces = tables.at(size)
            term = term_of(pieces)
            for name in group:
                phase = forward(f"head {name}", pieces.heads[name])
                yield phase._replace(times=times * phase.times)
            held = term if len(group) > 1 or not cut else 0.0
            for name in reversed(group):
                phase = backward(f"head {name}", pieces.heads[name], fresh)
                shared = tables.per_graph if name != group[0] else 0.0  # the group's graph costs once
                seconds = max(0.0, phase.seconds - shared)
                yield phase._replace(net=phase.net + held, seconds=seconds, times=times)
                held = 0.0
            released = term if cut and len(group) > 1 else 0.0
            made = times * pieces.cotangent if cut and number == 0 else 0.0  # every cut makes its own dL/dz
            yield Phase("dL/dz", 0.0, made - released, times=times)


def landing(pieces: NetworkCosts, head_chunks: int) -> Iterator[Phase]:
    """The parts of dL/dz are put together."""
    if head_chunks > 1:
        yield Phase("trunk backward", pieces.cotangent, 0.0)


def cuts_of(samples: int, count: int, first: bool) -> Iterator[tuple[int, int, bool]]:
    """Cut a number of samples into so many pieces, see `alike`."""
    return alike(equal_ranges(samples, count), first)


def alike(cuts: list[tuple[int, int]], first: bool) -> Iterator[tuple[int, int, bool]]:
    """(samples, how many of them in a row, whether they make the gradients); the first, those like it, the last."""
    size, last = cuts[0][1], cuts[-1][1] - cuts[-1][0]
    yield size, 1, first
    if len(cuts) > 2:
        yield size, len(cuts) - 2, False
    if len(cuts) > 1:
        yield last, 1, False
