"""Formula for a schedule in the form of a loss: its phases, with those of the caller's backward.

The phases are those of the schedule itself (see `_formula.py`), with one difference. A head's backward does not write
`.grad`: it creates tensors that wait for the caller's backward, which multiplies them, one after the other, by the
incoming gradient. So

- every backward of a head creates its gradients again, and those of a later piece are then added to the waiting ones;
- where `.grad` exists already, the gradients of all heads are live twice;
- a schedule that cuts the trunk runs its chunks again in the caller's backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch

from mtl_accum.editions import Accumulated, Cached, Checkpointed, Offloaded, Split, SummedLoss
from mtl_accum.planning._costs import NetworkCosts
from mtl_accum.planning._phases import (
    Phase,
    Tables,
    backward,
    backward_seconds,
    forward,
    group_equal,
    group_forwards,
    heads,
    size_groups,
)

__all__ = ["phases_of_loss"]


@singledispatch
def phases_of_loss(edition: object, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    """List the phases of `edition.loss(...)` and of the backward of its total, in their order.

    Args:
        edition: Edition of this package that has a loss.
        tables: Costs of the network.
        samples: Number of samples of the batch.
        first: Whether the backward creates the gradients; else it adds to them.

    Raises:
        TypeError: There is no formula for the loss of the edition.
    """
    raise TypeError(f"no formula for the loss of {edition!r}")


@phases_of_loss.register
def _(edition: SummedLoss, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    costs = tables.at(samples)
    yield forward("trunk", costs.trunk)
    yield from heads([list(costs.heads)], tables, [(samples, 1, first)], cut=False)
    yield _release_representation(costs)
    yield _trunk_backward(costs, first)


@phases_of_loss.register
def _(edition: Split, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    costs = tables.at(samples)
    yield forward("trunk", costs.trunk)
    yield from _folded_heads(_groups(edition, costs), tables, _sizes(samples, edition.head_chunks), costs)
    yield from _cast_accumulated(costs)
    yield _release_representation(costs)
    yield from _multiply_waiting(costs, first)
    yield _trunk_backward(costs, first)


@phases_of_loss.register
def _(edition: Cached, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    costs = tables.at(samples)
    z = costs.representation
    chunks = [(size, times) for size, times, _ in group_equal(samples, edition.chunk_size, first)]
    for number, (size, times) in enumerate(chunks):
        chunk = tables.at(size)
        yield _forward_without_graph(chunk, times)
        whole = z if number == 0 else 0.0  # the chunks' representations are concatenated
        yield Phase("trunk forward", whole, whole - chunk.representation)
    yield from _folded_heads([[name] for name in costs.heads], tables, _sizes(samples, edition.head_chunks), costs)
    yield from _cast_accumulated(costs)
    yield Phase("trunk backward", 0.0, -z)
    yield from _multiply_waiting(costs, first)
    for number, (size, times) in enumerate(reversed(chunks)):
        yield from _second_pass(tables.at(size), first and number == 0, times, from_slice=True)
    yield Phase("trunk backward", 0.0, -costs.term)


@phases_of_loss.register
def _(edition: Accumulated, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    """List the phases; every micro-batch keeps a dL/dz of its own, while the heads' gradients are added up."""
    micro_batches = _sizes(samples, edition.micro_batches)
    for number, (size, times) in enumerate(micro_batches):
        costs = tables.at(size)
        groups, sizes = _inside_micro_batch(edition.edition, costs, size)
        yield Phase("trunk forward", 0.0, (times - 1) * costs.term)  # dL/dz of the equal ones before the last
        yield _forward_without_graph(costs, times)
        folded = _folded_heads(groups, tables, sizes, costs, first=number == 0)
        for phase in (*folded, *_cast_accumulated(costs)):
            yield phase._replace(times=times * phase.times)
        yield Phase("trunk backward", 0.0, -costs.representation)
    yield from _multiply_waiting(tables.at(micro_batches[0][0]), first)
    for number, (size, times) in enumerate(reversed(micro_batches)):
        costs = tables.at(size)
        yield from _second_pass(costs, first and number == 0, times, from_slice=False)
        yield Phase("trunk backward", 0.0, -times * costs.term)


@phases_of_loss.register(Checkpointed)
def _(edition: Checkpointed, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    return phases_of_loss(edition.edition, tables.within("checkpointed"), samples, first)


@phases_of_loss.register(Offloaded)
def _(edition: Offloaded, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    return phases_of_loss(edition.edition, tables.within("offloaded"), samples, first)


def _inside_micro_batch(
    edition: object, costs: NetworkCosts, samples: int
) -> tuple[list[list[str]], list[tuple[int, int]]]:
    """Return the groups of heads and the pieces inside a micro-batch; all heads share a graph under `SummedLoss`."""
    if isinstance(edition, Split):
        return _groups(edition, costs), _sizes(samples, edition.head_chunks)
    if isinstance(edition, SummedLoss):
        return [list(costs.heads)], [(samples, 1)]
    raise TypeError(f"no formula for the loss of micro-batches in {edition!r}")


def _forward_without_graph(costs: NetworkCosts, times: int) -> Phase:
    """Return a forward of the trunk that keeps nothing but the representation."""
    blind = costs.blind
    return Phase("trunk forward", blind.forward_rise, costs.representation, blind.forward_seconds, times)


def _second_pass(costs: NetworkCosts, first: bool, times: int, *, from_slice: bool) -> Iterator[Phase]:
    """Return the second forward and the backward of a piece of the trunk.

    Args:
        costs: Costs at the piece's number of samples.
        first: Whether the backward creates the gradients.
        times: Number of such pieces in a row.
        from_slice: Whether dL/dz is a slice, which outlives the backward.
    """
    trunk = costs.trunk
    kept = trunk.kept - costs.loose
    yield Phase("trunk backward", trunk.forward_rise, kept, trunk.forward_seconds, times)
    phase = backward("trunk", trunk, first)
    rise = phase.rise + from_slice * (trunk.held_rise - trunk.again_rise)
    yield phase._replace(rise=rise, net=phase.net + costs.loose, times=times)


def _release_representation(costs: NetworkCosts) -> Phase:
    """Return the release of the representation, of which only what the trunk's graph keeps stays."""
    return Phase("trunk backward", 0.0, -costs.loose)


def _trunk_backward(costs: NetworkCosts, first: bool) -> Phase:
    """Return the backward of the trunk from dL/dz in the dtype of the representation."""
    phase = backward("trunk", costs.trunk, first)
    return phase._replace(net=phase.net + costs.loose - costs.term)


def _groups(edition: Split, costs: NetworkCosts) -> list[list[str]]:
    names = list(costs.heads)
    return [names[i : i + edition.heads_per_graph] for i in range(0, len(names), edition.heads_per_graph)]


def _sizes(samples: int, count: int) -> list[tuple[int, int]]:
    """Cut a number of samples into so many pieces: pairs of samples and how many such pieces follow each other."""
    return [(size, times) for size, times, _ in size_groups(samples, count, True)]


def _folded_heads(
    groups: Sequence[list[str]],
    tables: Tables,
    sizes: Sequence[tuple[int, int]],
    whole: NetworkCosts,
    *,
    first: bool = True,
) -> Iterator[Phase]:
    """Return the forwards and backwards of heads whose gradients wait for the caller's backward.

    Args:
        groups: Names of the heads that share a graph.
        tables: Costs of the network.
        sizes: Pieces of the batch, as `_sizes` returns them.
        whole: Costs for all samples, whose dL/dz is accumulated.
        first: Whether no gradients of these heads wait yet.
    """
    for number, group in enumerate(groups):
        for index, (size, times) in enumerate(sizes):
            costs = tables.at(size)
            yield from group_forwards(group, costs, times)
            for position, name in enumerate(reversed(group)):
                phase = backward(f"head {name}", costs.heads[name], True)
                net = phase.net + (costs.term if position == 0 else 0.0)
                yield phase._replace(net=net, seconds=backward_seconds(phase, name, group, tables), times=times)
            if index or not first:
                yield _add_to_waiting(group, costs, times)
            begins = number == index == 0
            if whole.accumulates_in_float32 or len(sizes) > 1:  # a buffer of its own, from the first term on
                created = whole.cotangent if begins else 0.0
                yield Phase("dL/dz", created, created - costs.term, times=times)
            elif not begins:  # the first term may be shared within autograd, so the second is not added in place
                yield Phase("dL/dz", costs.term if number == 1 else 0.0, -costs.term)


def _add_to_waiting(group: Sequence[str], costs: NetworkCosts, times: int) -> Phase:
    """Return the sum of a piece's head gradients into the waiting ones, one tensor at a time."""
    gradients = sum(costs.heads[name].gradients for name in group)
    largest = max(costs.heads[name].largest for name in group)
    return Phase("sum of gradients", largest, -gradients, times=times)


def _cast_accumulated(costs: NetworkCosts) -> Iterator[Phase]:
    """Return the cast of a dL/dz in float32 to a 16-bit representation's dtype; nothing for others."""
    if costs.accumulates_in_float32:
        yield Phase("dL/dz", costs.term, costs.term - costs.cotangent)


def _multiply_waiting(costs: NetworkCosts, first: bool) -> Iterator[Phase]:
    """Return the product of the waiting gradients with the incoming one: head by head, then dL/dz.

    Args:
        costs: Costs of the network.
        first: Whether the products become `.grad`; else they are added to it and freed.
    """
    largest = max(head.largest for head in costs.heads.values())
    gradients = sum(head.gradients for head in costs.heads.values())
    yield Phase("heads' gradients", largest, 0.0 if first else -gradients)
    yield Phase("trunk backward", costs.term, 0.0)
