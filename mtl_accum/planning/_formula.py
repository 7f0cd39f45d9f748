"""A schedule's peak and time, from the pieces of the network.

With base what rests (parameters, buffers, optimizer state, the batch), a schedule is a sequence of phases p_1, p_2, ...
Phase p rises rise(p) above what was live when it began and leaves net(p) behind, so that

    peak = base + max over k of (net(p_1) + ... + net(p_{k-1}) + rise(p_k))
    time = seconds(p_1) + seconds(p_2) + ...

where for n samples, of the trunk T and the heads h (see `Part` for what was probed)

    T forward        rise T.forward_rise(n)       net  T.kept(n)
    h forward        rise h.forward_rise(n)       net  h.kept(n)
    h backward       rise h.backward_rise(n)      net -h.kept(n) + h.gradients + dL/dz(n)
    T backward       rise T.backward_rise(n)      net -T.kept(n) + T.gradients - dL/dz(n)

Gradients and dL/dz are made once and then added to: later backwards have h.again_rise(n) and leave neither behind.
The editions differ in the order of these phases and in their n, and `phases` writes that order down. Pieces of one
size come one after the other and differ only in the first of them, so that two are enough for the peak.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import singledispatch
from typing import NamedTuple

from mtl_accum.editions import Accumulated, Cached, Checkpointed, Edition, Offloaded, PerTask, Split, SummedLoss
from mtl_accum.editions._pieces import equal_ranges, ranges
from mtl_accum.planning._pieces import Part, Pieces, Table

__all__ = ["Estimate", "Phase", "Tables", "estimate"]


class Phase(NamedTuple):
    """One phase: its name, bytes and seconds, and how often it comes in a row."""

    name: str
    rise: float
    net: float
    seconds: float = 0.0
    times: int = 1


class Estimate(NamedTuple):
    """What a schedule would need.

    Attributes:
        peak_bytes: of live tensors.
        peak_phase: where it is reached.
        seconds: of one step with its optimizer.
        phases: how many there are, which is what a run on tensors without data takes its time for.
    """

    peak_bytes: int
    peak_phase: str
    seconds: float
    phases: int


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
    trunk: dict[str, Table]
    variant: str = ""
    per_graph: float = 0.0

    def at(self, samples: int) -> Pieces:
        """The pieces at a number of samples."""
        return self.trunk[self.variant].at(samples)

    def timed_by(self, clocks: dict[str, Table], per_graph: float) -> Tables:
        """The same bytes with these seconds; a variant that did not run, since it does not fit, has another one's."""
        some = next(iter(clocks.values()))
        trunk = {name: table.timed_by(clocks.get(name, some)) for name, table in self.trunk.items()}
        return self._replace(trunk=trunk, per_graph=per_graph)

    def within(self, what: str) -> Tables:
        """With more done to the trunk."""
        return self._replace(variant=", ".join(filter(None, (self.variant, what))))


def estimate(edition: Edition, tables: Tables, samples: int) -> Estimate:
    """The peak and the time of one step on so many samples."""
    live = highest = tables.base + tables.inputs * samples
    where, seconds, count = "", 0.0, 0
    optimizer = tables.at(samples).optimizer if not tables.variant else Part()
    update = Phase("optimizer", optimizer.forward_rise, 0.0, optimizer.forward_seconds)
    for phase in (*phases(edition, tables, samples, True), update):
        if live + phase.rise > highest:
            highest, where = live + phase.rise, phase.name
        live += phase.net
        seconds += phase.times * phase.seconds
        count += phase.times
    return Estimate(round(highest), where, seconds, count)


@singledispatch
def phases(edition: object, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    """The phases of one call in their order.

    Args:
        edition: one of this package's.
        tables: the pieces.
        samples: of the batch.
        first: no gradients are there yet.
    """
    raise TypeError(f"no formula for {edition!r}")


@phases.register
def _(edition: SummedLoss, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    pieces = tables.at(samples)
    yield _forward("trunk", pieces.trunk)
    yield from _heads([list(pieces.heads)], tables, [(samples, 1, first)], cut=False)
    yield from _trunk_backward(pieces, first, cut=False)


@phases.register
def _(edition: PerTask, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    pieces = tables.at(samples)
    for number, name in enumerate(pieces.heads):
        yield _forward("trunk", pieces.trunk)
        yield from _heads([[name]], tables, [(samples, 1, first)], cut=False)
        yield from _trunk_backward(pieces, first and number == 0, cut=False)


@phases.register
def _(edition: Split, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    pieces = tables.at(samples)
    names = list(pieces.heads) if edition.order == "forward" else list(pieces.heads)[::-1]
    groups = [names[i : i + edition.heads_per_graph] for i in range(0, len(names), edition.heads_per_graph)]
    yield _forward("trunk", pieces.trunk)
    yield from _heads(groups, tables, _cuts(samples, edition.head_chunks, first))
    yield from _landing(pieces, edition.head_chunks)
    yield from _trunk_backward(pieces, first)


@phases.register
def _(edition: Cached, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    pieces = tables.at(samples)
    z = pieces.representation
    chunks = list(_alike(ranges(samples, edition.chunk_size), first))
    for number, (size, times, _) in enumerate(chunks):
        part = tables.at(size)
        made = z if number == 0 else 0.0
        blind = part.blind
        yield Phase("trunk forward", blind.forward_rise, part.representation, blind.forward_seconds, times)
        yield Phase("trunk forward", made, made - part.representation)  # put together
    yield from _heads([[name] for name in pieces.heads], tables, _cuts(samples, edition.head_chunks, first))
    yield from _landing(pieces, edition.head_chunks)
    for size, times, fresh in chunks:
        part = tables.at(size)
        for phase in (_forward("trunk", part.trunk), *_trunk_backward_from_slice(part, fresh)):
            yield phase._replace(times=times * phase.times)
    yield Phase("trunk backward", 0.0, -z - pieces.cotangent)


@phases.register
def _(edition: Accumulated, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    for size, times, fresh in _cuts(samples, edition.micro_batches, first):
        for phase in phases(edition.edition, tables, size, fresh):
            yield phase._replace(times=times * phase.times)


@phases.register
def _(edition: Checkpointed, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    return phases(edition.edition, tables.within("checkpointed"), samples, first)


@phases.register
def _(edition: Offloaded, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    return phases(edition.edition, tables.within("offloaded"), samples, first)


def _forward(name: str, part: Part) -> Phase:
    return Phase(f"{name} forward", part.forward_rise, part.kept, part.forward_seconds)


def _backward(name: str, part: Part, first: bool) -> Phase:
    rise = part.backward_rise if first else part.again_rise
    return Phase(f"{name} backward", rise, first * part.gradients - part.kept, part.backward_seconds)


def _trunk_backward(pieces: Pieces, first: bool, *, cut: bool = True) -> Iterator[Phase]:
    """From dL/dz as the leaves hold it; a sum in float32 is cast for a 16-bit trunk."""
    term, backward = _term(pieces), _backward("trunk", pieces.trunk, first)
    if cut and term < pieces.cotangent:
        yield Phase(backward.name, term, term - pieces.cotangent)
    yield backward._replace(net=backward.net - term)


def _trunk_backward_from_slice(pieces: Pieces, first: bool) -> Iterator[Phase]:
    """From a slice of dL/dz, which stays; its cast for a 16-bit trunk dies when it has been used."""
    term, backward = _term(pieces), _backward("trunk", pieces.trunk, first)
    if term < pieces.cotangent:
        yield Phase(backward.name, term, term)
        yield backward._replace(net=backward.net - term)
    else:
        yield backward._replace(rise=backward.rise + pieces.trunk.held_rise - pieces.trunk.again_rise)


def _term(pieces: Pieces) -> float:
    """Bytes of dL/dz as autograd itself sums it: less than in float32 where the representation is 16 bit."""
    in_float32 = pieces.cotangent > 1.5 * pieces.representation  # twice as much, and a few scalars either way
    return pieces.representation if in_float32 else pieces.cotangent


def _heads(
    groups: Sequence[list[str]], tables: Tables, cuts: Iterable[tuple[int, int, bool]], *, cut: bool = True
) -> Iterator[Phase]:
    """Heads in groups that share a graph, each over all cuts; a backward goes through its group last head first.

    Without the cut, dL/dz stays what autograd sums within the graph.
    """
    cuts = list(cuts)
    for number, group in enumerate(groups):
        for size, times, fresh in cuts:
            pieces = tables.at(size)
            term = _term(pieces)
            for name in group:
                phase = _forward(f"head {name}", pieces.heads[name])
                yield phase._replace(times=times * phase.times)
            held = term if len(group) > 1 or not cut else 0.0
            for name in reversed(group):
                phase = _backward(f"head {name}", pieces.heads[name], fresh)
                shared = tables.per_graph if name != group[0] else 0.0  # the group's graph costs once
                seconds = max(0.0, phase.seconds - shared)
                yield phase._replace(net=phase.net + held, seconds=seconds, times=times)
                held = 0.0
            released = term if cut and len(group) > 1 else 0.0
            made = times * pieces.cotangent if cut and number == 0 else 0.0  # every cut makes its own dL/dz
            yield Phase("dL/dz", 0.0, made - released, times=times)


def _landing(pieces: Pieces, head_chunks: int) -> Iterator[Phase]:
    """The parts of dL/dz are put together."""
    if head_chunks > 1:
        yield Phase("trunk backward", pieces.cotangent, 0.0)


def _cuts(samples: int, count: int, first: bool) -> Iterator[tuple[int, int, bool]]:
    return _alike(equal_ranges(samples, count), first)


def _alike(cuts: list[tuple[int, int]], first: bool) -> Iterator[tuple[int, int, bool]]:
    """(samples, how many of them in a row, whether they make the gradients); the first, those like it, the last."""
    size, last = cuts[0][1], cuts[-1][1] - cuts[-1][0]
    yield size, 1, first
    if len(cuts) > 2:
        yield size, len(cuts) - 2, False
    if len(cuts) > 1:
        yield last, 1, False
