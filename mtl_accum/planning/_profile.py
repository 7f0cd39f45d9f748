"""Profile of a network: bytes and seconds of the trunk, of every head and of the optimizer, from one run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from mtl_accum.editions import Checkpointed, Edition, Offloaded, Split, Tasks, Trunk, phase, samples_of
from mtl_accum.editions._engine import Kind, leaves, run_trunk
from mtl_accum.memory import PhaseMemory
from mtl_accum.planning._costs import NetworkCosts, PartCost

__all__ = ["Profile", "Section", "bytes_of", "with_variant"]

_HALF = (torch.float16, torch.bfloat16)


class Section(Enum):
    """Section of a profiled step, which tells apart phases of the same part and kind."""

    WITHOUT_GRAPH = auto()
    SPLIT = auto()
    HELD_GRADIENT = auto()
    UPDATE = auto()


class _Phase(NamedTuple):
    section: Section
    part: str
    kind: Kind


class _Cost(NamedTuple):
    """Cost of one run of a phase; bytes are relative to its start, and `net` is taken at the start of the next."""

    rise: int
    net: int
    seconds: float


_NO_COST = _Cost(0, 0, 0.0)


class Profile(Edition):
    """An edition that runs every part of a network by itself, and a listener that times its phases.

    Steps:
        1. The trunk without a graph.
        2. `Split`; for bytes twice, since the second run adds to the gradients that the first one creates.
        3. For bytes, the trunk with a dL/dz that outlives its backward, as a slice does, and without a reference to
           the representation.

    A phase is identified by the section in which it ran and by the part and kind that it announces. A phase of an
    unknown part is an error, since its costs would otherwise be missing from the formula.

    Args:
        now: Clock that phases are timed by, in seconds.
        measure_bytes: Whether the run is for bytes too; False runs what seconds need.

    Attributes:
        representation: Bytes of the representation.
        uncuttable: Reason why the representation cannot be cut into samples; empty if it can.
    """

    def __init__(self, now: Callable[[], float], *, measure_bytes: bool = True) -> None:
        self._now, self._measure_bytes = now, measure_bytes
        self._section = Section.UPDATE
        self._started = 0.0
        self._running: _Phase | None = None
        self._phases: list[tuple[_Phase, float]] = []
        self._in_half = False
        self.representation = 0
        self.uncuttable = ""

    @property
    def number_of_phases(self) -> int:
        """Number of phases that ran."""
        return len(self._phases)

    @property
    def ran_a_task(self) -> bool:
        """Whether some task had a target; else the phases hold no costs."""
        return any(key == _Phase(Section.SPLIT, "trunk", "forward") for key, _ in self._phases)

    def begin(self, name: str, kind: Kind) -> None:
        """Start the time of a phase."""
        self._running, self._started = _Phase(self._section, name, kind), self._now()

    def end(self) -> None:
        """Stop the time of the phase that began last."""
        if self._running is not None:
            self._phases.append((self._running, self._now() - self._started))

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Edition.forward_backward`; the gradients are not those of the sum of the losses."""
        self._section = Section.WITHOUT_GRAPH
        with torch.no_grad():
            with phase("trunk", "forward"):
                z = run_trunk(trunk, batch)
            self._inspect(z, batch)
            del z
        self._section = Section.SPLIT
        losses = Split().forward_backward(trunk, tasks, batch)
        if self._measure_bytes:
            losses = Split().forward_backward(trunk, tasks, batch)
            self._section = Section.HELD_GRADIENT
            _run_with_held_gradient(trunk, batch)
        self._section = Section.UPDATE
        return losses

    def costs(self, tasks: Sequence[str], timeline: Sequence[PhaseMemory] = ()) -> NetworkCosts:
        """Return the costs of every part.

        Args:
            tasks: Names of all tasks, in their order; absent ones have no costs.
            timeline: Phases of the run with their bytes; empty where only the seconds are wanted.

        Raises:
            RuntimeError: A phase belongs to no part of the network, or the trunk has no phase.
        """
        costs = self._costs_by_phase(tasks, timeline)
        trunk = _part(costs, "trunk")
        loose = 0.0
        held = costs.get(_Phase(Section.HELD_GRADIENT, "trunk", "backward"))
        if held is not None:
            trunk = trunk._replace(held_rise=held[0].rise)
            left = costs[_Phase(Section.HELD_GRADIENT, "trunk", "forward")][0].net
            loose = min(max(0.0, trunk.kept + self.representation - left), self.representation)
        heads = {name: _part(costs, _head(name)) for name in tasks if _in_split(_head(name), "forward") in costs}
        cotangent = _left_by_backwards(costs, heads)
        blind = costs[_Phase(Section.WITHOUT_GRAPH, "trunk", "forward")][0]
        optimizer = costs.get(_Phase(Section.UPDATE, "optimizer", "optimizer"), [_NO_COST])[0]
        return NetworkCosts(
            trunk=trunk,
            blind=PartCost(blind.rise, forward_seconds=blind.seconds),
            heads=heads,
            representation=self.representation,
            cotangent=cotangent,
            optimizer=PartCost(optimizer.rise, forward_seconds=optimizer.seconds),
            loose=loose,
            term=min(cotangent, self.representation) if self._in_half else cotangent,
        )

    def _inspect(self, z: Any, batch: Any) -> None:
        """Note the size and dtype of the representation, and whether it has the batch's samples."""
        tensors = [leaf for leaf in leaves(z) if isinstance(leaf, Tensor)]
        self.representation = bytes_of(z)
        self._in_half = 2 * bytes_of([t for t in tensors if t.dtype in _HALF]) > self.representation
        try:
            samples, expected = samples_of(z, "representation"), samples_of(batch, "batch")
            self.uncuttable = "" if samples == expected else f"representation: found {samples} samples of {expected}"
        except (TypeError, ValueError) as error:
            self.uncuttable = str(error)

    def _costs_by_phase(self, tasks: Sequence[str], timeline: Sequence[PhaseMemory]) -> dict[_Phase, list[_Cost]]:
        """Group the runs of each phase, in their order.

        Raises:
            RuntimeError: A phase belongs to no part of the network, or the trunk has no phase.
        """
        costs = defaultdict(list)
        for key, cost in self._costs_in_order(timeline):
            costs[key].append(cost)
        parts = {"trunk", *map(_head, tasks)}
        known = {(part, kind) for part in parts for kind in ("forward", "backward")}
        known |= {("optimizer", "optimizer"), ("zero_grad", "zero_grad")}
        unknown = sorted({f"{part} ({kind})" for _, part, kind in costs if (part, kind) not in known})
        required = [_Phase(section, "trunk", "forward") for section in (Section.WITHOUT_GRAPH, Section.SPLIT)]
        missing = [f"{part} ({kind})" for section, part, kind in required if (section, part, kind) not in costs]
        if unknown or missing:
            raise RuntimeError(
                f"profile: expected phases of {', '.join(sorted(parts))}; "
                f"found {', '.join(unknown) or 'no others'}, missing {', '.join(missing) or 'none'}"
            )
        return dict(costs)

    def _costs_in_order(self, timeline: Sequence[PhaseMemory]) -> Iterator[tuple[_Phase, _Cost]]:
        if not timeline:
            yield from ((key, _Cost(0, 0, seconds)) for key, seconds in self._phases)
            return
        ends = [memory.start_bytes for memory in timeline[1:]] + [timeline[-1].end_bytes]
        followers = [key for key, _ in self._phases[1:]] + [None]
        for memory, end, follower, (key, seconds) in zip(timeline, ends, followers, self._phases, strict=True):
            # A 16-bit trunk's dL/dz is cast before its backward, which is no cost of the head before it.
            last_head = follower == _Phase(Section.SPLIT, "trunk", "backward")
            left = memory.end_bytes if last_head else end
            yield key, _Cost(memory.rise_bytes, left - memory.start_bytes, seconds)


def with_variant(edition: Edition, variant: str) -> Edition:
    """Return an edition with its trunk as a variant has it.

    Args:
        edition: The edition.
        variant: "", "checkpointed", "offloaded" or "offloaded, checkpointed".
    """
    for wrapper in variant.split(", ")[::-1]:
        edition = {"": lambda e: e, "checkpointed": Checkpointed, "offloaded": Offloaded}[wrapper](edition)
    return edition


def bytes_of(tree: Any) -> int:
    """Return the bytes of all storages in a container, each counted once."""
    dense = (leaf for leaf in leaves(tree) if isinstance(leaf, Tensor) and not leaf.is_sparse)
    storages = {storage._cdata: storage.nbytes() for storage in (leaf.untyped_storage() for leaf in dense)}
    return sum(storages.values())


def _run_with_held_gradient(trunk: Trunk, batch: Any) -> None:
    """Run the trunk forward and backward with a dL/dz that outlives the backward and no reference to z."""
    with phase("trunk", "forward"):
        z = run_trunk(trunk, batch)
    roots = [leaf for leaf in leaves(z) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if roots:
        gradients = [torch.zeros_like(root, requires_grad=False) for root in roots]
        edges = [get_gradient_edge(root) for root in roots]
        del z, roots
        with phase("trunk", "backward"):
            torch.autograd.backward(edges, gradients)


def _head(task: str) -> str:
    """Return the name by which editions announce a task's phases."""
    return f"head {task}"


def _in_split(part: str, kind: Kind) -> _Phase:
    return _Phase(Section.SPLIT, part, kind)


def _part(costs: dict[_Phase, list[_Cost]], part: str) -> PartCost:
    """Return the costs of a part from its runs under `Split`; one that needs no gradient has no backward."""
    forwards = costs[_in_split(part, "forward")]
    backwards = costs.get(_in_split(part, "backward"), [_NO_COST])
    first, last = backwards[0], backwards[-1]
    return PartCost(
        forward_rise=forwards[0].rise,
        kept=forwards[0].net,
        backward_rise=first.rise,
        again_rise=last.rise,
        gradients=max(0.0, first.net - last.net),
        forward_seconds=min(cost.seconds for cost in forwards),
        backward_seconds=min(cost.seconds for cost in backwards),
    )


def _left_by_backwards(costs: dict[_Phase, list[_Cost]], heads: dict[str, PartCost]) -> float:
    """Return the bytes that the heads' last backwards leave: dL/dz alone, since the gradients existed before."""
    last = {name: costs[key][-1] for name in heads if (key := _in_split(_head(name), "backward")) in costs}
    return max(0.0, sum(cost.net + heads[name].kept for name, cost in last.items()))
