"""A schedule's peak and time, from the pieces of the network.

With base what rests (parameters, buffers, optimizer state, the batch), a schedule is a sequence of phases p_1, p_2, ...
Phase p rises rise(p) above what was live when it began and leaves net(p) behind, so that

    peak = base + max over k of (net(p_1) + ... + net(p_{k-1}) + rise(p_k))
    time = seconds(p_1) + seconds(p_2) + ...

where for n samples, of the trunk T and the heads h (see `PartCost` for what was probed)

    T forward        rise T.forward_rise(n)       net  T.kept(n)
    h forward        rise h.forward_rise(n)       net  h.kept(n)
    h backward       rise h.backward_rise(n)      net -h.kept(n) + h.gradients + dL/dz(n)
    T backward       rise T.backward_rise(n)      net -T.kept(n) + T.gradients - dL/dz(n)

Gradients and dL/dz are made once and then added to: later backwards have h.again_rise(n) and leave neither behind.
The editions differ in the order of these phases and in their n, and `phases` writes that order down. Pieces of one
size come one after the other and differ only in the first of them, so that two are enough for the peak.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from typing import NamedTuple

from mtl_accum.editions import Accumulated, AsLoss, Cached, Checkpointed, Edition, Offloaded, PerTask, Split, SummedLoss
from mtl_accum.editions._engine import ranges
from mtl_accum.planning._costs import PartCost
from mtl_accum.planning._formula_of_loss import phases_of_loss
from mtl_accum.planning._phases import (
    Phase,
    Tables,
    alike,
    cuts_of,
    forward,
    heads,
    landing,
    trunk_backward,
    trunk_backward_from_slice,
)

__all__ = ["Estimate", "Tables", "estimate", "phases"]


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


def estimate(edition: Edition, tables: Tables, samples: int) -> Estimate:
    """The peak and the time of one step on so many samples."""
    live = highest = tables.base + tables.inputs * samples
    where, seconds, count = "", 0.0, 0
    optimizer = tables.at(samples).optimizer if not tables.variant else PartCost()
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
    """List the phases of one call in their order.

    Args:
        edition: An edition with a formula; one of your own needs `phases.register`.
        tables: Costs of the network's parts.
        samples: Number of samples of the batch.
        first: Whether there are no gradients yet.

    Raises:
        TypeError: The edition has no formula.
    """
    raise TypeError(f"no formula for {edition!r}; give it one with mtl_accum.planning.phases.register")


@phases.register
def _(edition: SummedLoss, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    pieces = tables.at(samples)
    yield forward("trunk", pieces.trunk)
    yield from heads([list(pieces.heads)], tables, [(samples, 1, first)], cut=False)
    yield from trunk_backward(pieces, first, cut=False)


@phases.register
def _(edition: AsLoss, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    if edition.each:
        raise TypeError(f"no formula for {edition!r}, which has a dL/dz for each task")
    return phases_of_loss(edition.edition, tables, samples, first)


@phases.register
def _(edition: PerTask, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    pieces = tables.at(samples)
    for number, name in enumerate(pieces.heads):
        yield forward("trunk", pieces.trunk)
        yield from heads([[name]], tables, [(samples, 1, first)], cut=False)
        yield from trunk_backward(pieces, first and number == 0, cut=False)


@phases.register
def _(edition: Split, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    pieces = tables.at(samples)
    names = list(pieces.heads) if edition.order == "forward" else list(pieces.heads)[::-1]
    groups = [names[i : i + edition.heads_per_graph] for i in range(0, len(names), edition.heads_per_graph)]
    yield forward("trunk", pieces.trunk)
    yield from heads(groups, tables, cuts_of(samples, edition.head_chunks, first))
    yield from landing(pieces, edition.head_chunks)
    yield from trunk_backward(pieces, first)


@phases.register
def _(edition: Cached, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    pieces = tables.at(samples)
    z = pieces.representation
    chunks = list(alike(ranges(samples, edition.chunk_size), first))
    for number, (size, times, _) in enumerate(chunks):
        part = tables.at(size)
        made = z if number == 0 else 0.0
        blind = part.blind
        yield Phase("trunk forward", blind.forward_rise, part.representation, blind.forward_seconds, times)
        yield Phase("trunk forward", made, made - part.representation)  # put together
    yield from heads([[name] for name in pieces.heads], tables, cuts_of(samples, edition.head_chunks, first))
    yield from landing(pieces, edition.head_chunks)
    for size, times, fresh in chunks:
        part = tables.at(size)
        for phase in (forward("trunk", part.trunk), *trunk_backward_from_slice(part, fresh)):
            yield phase._replace(times=times * phase.times)
    yield Phase("trunk backward", 0.0, -z - pieces.cotangent)


@phases.register
def _(edition: Accumulated, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    for size, times, fresh in cuts_of(samples, edition.micro_batches, first):
        for phase in phases(edition.edition, tables, size, fresh):
            yield phase._replace(times=times * phase.times)


@phases.register
def _(edition: Checkpointed, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    return phases(edition.edition, tables.within("checkpointed"), samples, first)


@phases.register
def _(edition: Offloaded, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    return phases(edition.edition, tables.within("offloaded"), samples, first)
