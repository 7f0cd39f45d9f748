"""The phases of a schedule in the form of a loss, with the caller's backward.

They are those of the schedule itself (see `_formula.py`), but for this: what the heads' backwards make are not `.grad`
but tensors that wait for the caller's backward, which multiplies them, one after the other, by what comes in. So every
backward of a head makes its gradients anew; those of a later piece are added up afterwards. Where `.grad` is there
before, the gradients of all heads are there twice. What cuts the trunk runs its chunks again in that backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch

from mtl_accum.editions import Accumulated, Cached, Checkpointed, Offloaded, Split, SummedLoss
from mtl_accum.editions._engine import ranges
from mtl_accum.planning._costs import NetworkCosts
from mtl_accum.planning._phases import Phase, Tables, alike, backward, cuts_of, forward, heads, term_of

__all__ = ["phases_of_loss"]


@singledispatch
def phases_of_loss(edition: object, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    """List the phases of `edition.loss(...)` and the backward of its total, in their order.

    Args:
        edition: One of this package's that has a loss.
        tables: The pieces.
        samples: Number of samples of the batch.
        first: Whether no gradients are there yet.
    """
    raise TypeError(f"no formula for the loss of {edition!r}")


@phases_of_loss.register
def _(edition: SummedLoss, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    pieces = tables.at(samples)
    yield forward("trunk", pieces.trunk)
    yield from heads([list(pieces.heads)], tables, [(samples, 1, first)], cut=False)
    yield from _let_go(pieces)
    yield _trunk_backward(pieces, first)


@phases_of_loss.register
def _(edition: Split, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    pieces = tables.at(samples)
    yield forward("trunk", pieces.trunk)
    yield from _folded(_groups(edition, pieces), tables, _sizes(samples, edition.head_chunks), pieces)
    yield from _landed(pieces)
    yield from _let_go(pieces)
    yield from _attached(pieces, first)
    yield _trunk_backward(pieces, first)


@phases_of_loss.register
def _(edition: Cached, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    pieces = tables.at(samples)
    z = pieces.representation
    chunks = [(size, times) for size, times, _ in alike(ranges(samples, edition.chunk_size), first)]
    for number, (size, times) in enumerate(chunks):
        part = tables.at(size)
        made = z if number == 0 else 0.0
        yield _blind(part, times)
        yield Phase("trunk forward", made, made - part.representation)  # put together
    yield from _folded([[name] for name in pieces.heads], tables, _sizes(samples, edition.head_chunks), pieces)
    yield from _landed(pieces)
    yield Phase("trunk backward", 0.0, -z)
    yield from _attached(pieces, first)
    for number, (size, times) in enumerate(reversed(chunks)):
        yield from _again(tables.at(size), first and number == 0, times, held=True)
    yield Phase("trunk backward", 0.0, -term_of(pieces))


@phases_of_loss.register
def _(edition: Accumulated, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    """Every micro-batch keeps its dL/dz; those of the heads' gradients are summed."""
    cuts = _sizes(samples, edition.micro_batches)
    for number, (size, times) in enumerate(cuts):
        part = tables.at(size)
        groups, sizes = _inside(edition.edition, part, size)
        yield Phase("trunk forward", 0.0, (times - 1) * term_of(part))  # of those before
        yield _blind(part, times)
        for phase in (*_folded(groups, tables, sizes, part, first=number == 0), *_landed(part)):
            yield phase._replace(times=times * phase.times)
        yield Phase("trunk backward", 0.0, -part.representation)
    yield from _attached(tables.at(cuts[0][0]), first)
    for number, (size, times) in enumerate(reversed(cuts)):
        part = tables.at(size)
        yield from _again(part, first and number == 0, times, held=False)
        yield Phase("trunk backward", 0.0, -times * term_of(part))


@phases_of_loss.register(Checkpointed)
def _(edition: Checkpointed, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    return phases_of_loss(edition.edition, tables.within("checkpointed"), samples, first)


@phases_of_loss.register(Offloaded)
def _(edition: Offloaded, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    return phases_of_loss(edition.edition, tables.within("offloaded"), samples, first)


def _inside(edition: object, pieces: NetworkCosts, samples: int) -> tuple[list[list[str]], list[tuple[int, int]]]:
    """Return the groups of heads and the pieces of a micro-batch; all heads share a graph under the summed loss."""
    if isinstance(edition, Split):
        return _groups(edition, pieces), _sizes(samples, edition.head_chunks)
    if isinstance(edition, SummedLoss):
        return [list(pieces.heads)], [(samples, 1)]
    raise TypeError(f"no formula for the loss of micro-batches in {edition!r}")


def _blind(pieces: NetworkCosts, times: int) -> Phase:
    """Return a forward of the trunk of which nothing is kept but the representation."""
    blind = pieces.blind
    return Phase("trunk forward", blind.forward_rise, pieces.representation, blind.forward_seconds, times)


def _again(pieces: NetworkCosts, first: bool, times: int, *, held: bool) -> Iterator[Phase]:
    """Run a piece of the trunk again, and its backward.

    Args:
        pieces: The pieces at its number of samples.
        first: Whether no gradients are there yet.
        times: How many in a row.
        held: Whether dL/dz is a slice, which does not die when it has been used.
    """
    trunk = pieces.trunk
    kept = trunk.kept - pieces.loose
    yield Phase("trunk backward", trunk.forward_rise, kept, trunk.forward_seconds, times)
    phase = backward("trunk", trunk, first)
    rise = phase.rise + held * (trunk.held_rise - trunk.again_rise)
    yield phase._replace(rise=rise, net=phase.net + pieces.loose, times=times)


def _let_go(pieces: NetworkCosts) -> Iterator[Phase]:
    """Nobody holds the representation any more but what needs it in the trunk's graph."""
    yield Phase("trunk backward", 0.0, -pieces.loose)


def _trunk_backward(pieces: NetworkCosts, first: bool) -> Phase:
    """From dL/dz as autograd itself sums it."""
    phase = backward("trunk", pieces.trunk, first)
    return phase._replace(net=phase.net + pieces.loose - term_of(pieces))


def _groups(edition: Split, pieces: NetworkCosts) -> list[list[str]]:
    names = list(pieces.heads)
    return [names[i : i + edition.heads_per_graph] for i in range(0, len(names), edition.heads_per_graph)]


def _sizes(samples: int, count: int) -> list[tuple[int, int]]:
    """Cut a number of samples into pieces: (samples, how many of them in a row)."""
    return [(size, times) for size, times, _ in cuts_of(samples, count, True)]


def _folded(
    groups: Sequence[list[str]],
    tables: Tables,
    sizes: Sequence[tuple[int, int]],
    whole: NetworkCosts,
    *,
    first: bool = True,
) -> Iterator[Phase]:
    """Heads in groups that share a graph, each over all pieces, with gradients that wait.

    Args:
        groups: Names of the heads.
        tables: The pieces.
        sizes: Numbers of samples.
        whole: The pieces for all samples, whose dL/dz adds up.
        first: Whether no gradients wait yet.
    """
    wide = term_of(whole) < whole.cotangent
    for number, group in enumerate(groups):
        for index, (size, times) in enumerate(sizes):
            pieces = tables.at(size)
            term = term_of(pieces)
            for name in group:
                phase = forward(f"head {name}", pieces.heads[name])
                yield phase._replace(times=times * phase.times)
            made = term
            for name in reversed(group):
                phase = backward(f"head {name}", pieces.heads[name], True)
                shared = tables.per_graph if name != group[0] else 0.0  # the group's graph costs once
                seconds = max(0.0, phase.seconds - shared)
                yield phase._replace(net=phase.net + made, seconds=seconds, times=times)
                made = 0.0
            if index or not first:
                held = sum(pieces.heads[name].gradients for name in group)
                largest = max(pieces.heads[name].largest for name in group)
                yield Phase("sum of gradients", largest, -held, times=times)
            begun = number == index == 0
            if wide or len(sizes) > 1:  # a sum of its own from the first term on
                yield Phase("dL/dz", begun * whole.cotangent, begun * whole.cotangent - term, times=times)
            elif not begun:  # the second term is not added into the first, which autograd may have shared
                yield Phase("dL/dz", term if number == 1 else 0.0, -term)


def _landed(pieces: NetworkCosts) -> Iterator[Phase]:
    """A sum of dL/dz in float32 is cast for a 16-bit trunk."""
    term = term_of(pieces)
    if term < pieces.cotangent:
        yield Phase("dL/dz", term, term - pieces.cotangent)


def _attached(pieces: NetworkCosts, first: bool) -> Iterator[Phase]:
    """The gradients of the heads are multiplied by what comes in, one leaf after the other, then dL/dz."""
    largest = max(head.largest for head in pieces.heads.values())
    held = sum(head.gradients for head in pieces.heads.values())
    yield Phase("heads' gradients", largest, 0.0 if first else -held)
    yield Phase("trunk backward", term_of(pieces), 0.0)
