"""Formula for a schedule's peak and time, from the costs of the network's parts.

A schedule is a sequence of phases p_1, p_2, ... Phase p rises rise(p) bytes above its start and leaves net(p) behind.
With base the bytes that are live whatever the schedule (parameters, buffers, optimizer state, the batch),

    peak = base + max over k of (net(p_1) + ... + net(p_{k-1}) + rise(p_k))
    time = seconds(p_1) + seconds(p_2) + ...

For n samples, the trunk T and the heads h have these phases (see `PartCost` for the measured figures):

    T forward        rise T.forward_rise(n)       net  T.kept(n)
    h forward        rise h.forward_rise(n)       net  h.kept(n)
    h backward       rise h.backward_rise(n)      net -h.kept(n) + h.gradients + dL/dz(n)
    T backward       rise T.backward_rise(n)      net -T.kept(n) + T.gradients - dL/dz(n)

Gradients and dL/dz are created once and then added to: later backwards rise by h.again_rise(n) and leave neither
behind. The editions differ in the order of these phases and in their n, and `phases` lists that order. Pieces of one
size follow each other, and only the first of them may differ from the others: two of them decide the peak.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from typing import NamedTuple

from mtl_accum.editions import Accumulated, AsLoss, Cached, Checkpointed, Edition, Offloaded, PerTask, Split, SummedLoss
from mtl_accum.planning._costs import PartCost
from mtl_accum.planning._formula_of_loss import phases_of_loss
from mtl_accum.planning._phases import (
    Phase,
    Tables,
    forward,
    group_equal,
    heads,
    join_chunk_gradients,
    size_groups,
    trunk_backward,
    trunk_backward_from_slice,
)

__all__ = ["Estimate", "Tables", "estimate", "phases"]


class Estimate(NamedTuple):
    """Estimated memory and time of one step.

    Attributes:
        peak_bytes: Peak bytes of live tensors.
        peak_phase: Name of the phase that reaches the peak.
        seconds: Seconds of the step with its optimizer.
        phases: Number of phases; the time of a dry run is proportional to it.
    """

    peak_bytes: int
    peak_phase: str
    seconds: float
    phases: int


def estimate(edition: Edition, tables: Tables, samples: int) -> Estimate:
    """Estimate the peak and the time of one step on a number of samples."""
    live = highest = tables.base + tables.inputs * samples
    peak_phase, seconds, count = "", 0.0, 0
    optimizer = tables.at(samples).optimizer if not tables.variant else PartCost()
    update = Phase("optimizer", optimizer.forward_rise, 0.0, optimizer.forward_seconds)
    for phase in (*phases(edition, tables, samples, True), update):
        if live + phase.rise > highest:
            highest, peak_phase = live + phase.rise, phase.name
        live += phase.net
        seconds += phase.times * phase.seconds
        count += phase.times
    return Estimate(round(highest), peak_phase, seconds, count)


@singledispatch
def phases(edition: object, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    """List the phases of one `forward_backward`, in their order.

    Args:
        edition: Edition with a formula; one of your own needs `phases.register`.
        tables: Costs of the network.
        samples: Number of samples of the batch.
        first: Whether the call creates the gradients; else it adds to them.

    Raises:
        TypeError: There is no formula for the edition.
    """
    raise TypeError(f"no formula for {edition!r}; give it one with mtl_accum.planning.phases.register")


@phases.register
def _(edition: SummedLoss, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    costs = tables.at(samples)
    yield forward("trunk", costs.trunk)
    yield from heads([list(costs.heads)], tables, [(samples, 1, first)], cut=False)
    yield from trunk_backward(costs, first, cut=False)


@phases.register
def _(edition: AsLoss, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    if edition.each:
        raise TypeError(f"no formula for {edition!r}, which has a dL/dz for each task")
    return phases_of_loss(edition.edition, tables, samples, first)


@phases.register
def _(edition: PerTask, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    costs = tables.at(samples)
    for number, name in enumerate(costs.heads):
        yield forward("trunk", costs.trunk)
        yield from heads([[name]], tables, [(samples, 1, first)], cut=False)
        yield from trunk_backward(costs, first and number == 0, cut=False)


@phases.register
def _(edition: Split, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    costs = tables.at(samples)
    names = list(costs.heads) if edition.order == "forward" else list(costs.heads)[::-1]
    groups = [names[i : i + edition.heads_per_graph] for i in range(0, len(names), edition.heads_per_graph)]
    yield forward("trunk", costs.trunk)
    yield from heads(groups, tables, size_groups(samples, edition.head_chunks, first))
    yield from join_chunk_gradients(costs, edition.head_chunks)
    yield from trunk_backward(costs, first)


@phases.register
def _(edition: Cached, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    costs = tables.at(samples)
    z = costs.representation
    chunks = list(group_equal(samples, edition.chunk_size, first))
    for number, (size, times, _) in enumerate(chunks):
        chunk = tables.at(size)
        blind = chunk.blind
        yield Phase("trunk forward", blind.forward_rise, chunk.representation, blind.forward_seconds, times)
        whole = z if number == 0 else 0.0  # the chunks' representations are concatenated
        yield Phase("trunk forward", whole, whole - chunk.representation)
    yield from heads([[name] for name in costs.heads], tables, size_groups(samples, edition.head_chunks, first))
    yield from join_chunk_gradients(costs, edition.head_chunks)
    for size, times, creates in chunks:
        chunk = tables.at(size)
        for phase in (forward("trunk", chunk.trunk), *trunk_backward_from_slice(chunk, creates)):
            yield phase._replace(times=times * phase.times)
    yield Phase("trunk backward", 0.0, -z - costs.cotangent)


@phases.register
def _(edition: Accumulated, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    for size, times, creates in size_groups(samples, edition.micro_batches, first):
        for phase in phases(edition.edition, tables, size, creates):
            yield phase._replace(times=times * phase.times)


@phases.register
def _(edition: Checkpointed, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    return phases(edition.edition, tables.within("checkpointed"), samples, first)


@phases.register
def _(edition: Offloaded, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    return phases(edition.edition, tables.within("offloaded"), samples, first)
