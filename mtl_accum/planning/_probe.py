"""A few runs on tensors without data, or with it, that tell what every part of a network needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from mtl_accum.editions import Checkpointed, Edition, Offloaded, Split, Tasks, Trunk, phase, samples_of
from mtl_accum.editions._engine import Kind, label, leaves, run_trunk
from mtl_accum.memory import PhaseMemory
from mtl_accum.planning._costs import NetworkCosts, PartCost

__all__ = ["Probe", "Stopwatch", "anything_ran", "as_pieces", "bytes_of", "wrapped"]

_BLIND = "trunk without a graph"
_HELD = "trunk with dL/dz held"


@dataclass
class Probe(Edition):
    """An edition that shows all parts: the trunk without a graph, then `Split`, gradients adding up.

    Args:
        weigh: for bytes: `Split` runs twice, since the second time gradients are added to instead of made, then the
            trunk with dL/dz held to the end, as a slice of it is, and without its representation.

    Attributes:
        representation: bytes of it.
        uncuttable: why it cannot be cut into samples; empty if it can.
    """

    weigh: bool = True
    representation: int = field(default=0, init=False)
    uncuttable: str = field(default="", init=False)

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Edition.forward_backward`."""
        with torch.no_grad():
            with phase(_BLIND, "forward"):
                z = run_trunk(trunk, batch)
            self._look(z, batch)
            del z
        for _ in range(1 + self.weigh):
            losses = Split().forward_backward(trunk, tasks, batch)
        if self.weigh:
            _hold(trunk, batch)
        return losses

    def _look(self, z: Any, batch: Any) -> None:
        self.representation = bytes_of(z)
        try:
            found, expected = samples_of(z, "representation"), samples_of(batch, "batch")
            self.uncuttable = "" if found == expected else f"representation: found {found} samples of {expected}"
        except (TypeError, ValueError) as error:
            self.uncuttable = str(error)


def _hold(trunk: Trunk, batch: Any) -> None:
    with phase(_HELD, "forward"):
        z = run_trunk(trunk, batch)
    roots = [leaf for leaf in leaves(z) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if roots:
        gradients = [torch.zeros_like(root, requires_grad=False) for root in roots]
        edges = [get_gradient_edge(root) for root in roots]
        del z, roots
        with phase(_HELD, "backward"):
            torch.autograd.backward(edges, gradients)


def wrapped(edition: Edition, variant: str) -> Edition:
    """An edition with the trunk as the variant says: "", "checkpointed", "offloaded" or both, with a comma."""
    for word in variant.split(", ")[::-1]:
        edition = {"": lambda e: e, "checkpointed": Checkpointed, "offloaded": Offloaded}[word](edition)
    return edition


class Stopwatch:
    """Seconds of every phase, in order."""

    def __init__(self, now: Any) -> None:
        self._now, self._start = now, 0.0
        self.phases: list[tuple[str, float]] = []

    def begin(self, name: str, kind: Kind) -> None:
        """A phase begins."""
        self._name, self._start = label(name, kind), self._now()

    def end(self) -> None:
        """It is over."""
        self.phases.append((self._name, self._now() - self._start))


def anything_ran(seconds: Sequence[tuple[str, float]]) -> bool:
    """Tell whether a `Probe` has met a task with a target: else there is nothing to learn from its phases."""
    return any(name == "trunk forward" for name, _ in seconds)


def as_pieces(
    timeline: Sequence[PhaseMemory], seconds: Sequence[tuple[str, float]], names: list[str], representation: int
) -> NetworkCosts:
    """What the phases of a `Probe` say.

    Args:
        timeline: the phases with their bytes; empty where only the time is known.
        seconds: their names and seconds, in the same order.
        names: of all tasks.
        representation: its bytes.
    """
    runs: dict[str, list[_Run]] = {}
    for run in _runs(timeline, seconds):
        runs.setdefault(run.name, []).append(run)
    trunk = _part(runs, "trunk")
    held = runs.get(f"{_HELD} backward")
    loose = 0.0
    if held is not None:
        trunk = trunk._replace(held_rise=held[0].rise)
        loose = min(max(0.0, trunk.kept + representation - runs[f"{_HELD} forward"][0].net), representation)
    heads = {name: _part(runs, f"head {name}") for name in names if f"head {name} forward" in runs}
    again = [runs[f"head {name} backward"][-1] for name in heads if f"head {name} backward" in runs]
    kept = sum(part.kept for name, part in heads.items() if f"head {name} backward" in runs)
    blind = runs[f"{_BLIND} forward"][0]
    optimizer = runs.get("optimizer", [_Run("optimizer", 0, 0, 0.0)])[0]
    return NetworkCosts(
        trunk,
        PartCost(blind.rise, forward_seconds=blind.seconds),
        heads,
        representation,
        max(0.0, sum(run.net for run in again) + kept),  # what is left is dL/dz alone
        PartCost(optimizer.rise, forward_seconds=optimizer.seconds),
        loose,
    )


def bytes_of(tree: Any) -> int:
    """The bytes of all storages in a container, each once."""
    dense = (leaf for leaf in leaves(tree) if isinstance(leaf, Tensor) and not leaf.is_sparse)
    storages = {storage._cdata: storage.nbytes() for storage in (leaf.untyped_storage() for leaf in dense)}
    return sum(storages.values())


@dataclass(frozen=True)
class _Run:
    """One phase: its bytes relative to its start; `net` up to the start of the next."""

    name: str
    rise: int
    net: int
    seconds: float


def _runs(timeline: Sequence[PhaseMemory], seconds: Sequence[tuple[str, float]]) -> Iterator[_Run]:
    if not timeline:
        yield from (_Run(name, 0, 0, spent) for name, spent in seconds)
        return
    for index, (found, (name, spent)) in enumerate(zip(timeline, seconds, strict=True)):
        start = found.start_bytes
        following = timeline[index + 1] if index + 1 < len(timeline) else None
        # A 16-bit trunk's dL/dz is cast before its backward: that is no head's.
        into_trunk = following is not None and (following.name, following.kind) == ("trunk", "backward")
        then = found.end_bytes if following is None or into_trunk else following.start_bytes
        yield _Run(name, found.rise_bytes, then - start, spent)


def _part(runs: dict[str, list[_Run]], name: str) -> PartCost:
    forward = runs[f"{name} forward"]
    backward = runs.get(f"{name} backward", [_Run(name, 0, 0, 0.0)])
    return PartCost(
        forward[0].rise,
        forward[0].net,
        backward[0].rise,
        backward[-1].rise,
        gradients=max(0.0, backward[0].net - backward[-1].net),
        forward_seconds=min(run.seconds for run in forward),
        backward_seconds=min(run.seconds for run in backward),
    )
