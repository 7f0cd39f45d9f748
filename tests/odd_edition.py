"""Editions from outside of the package: one that is wrong, and a real one with all that a new edition needs.

`HalvedHeads` is what `CONTRIBUTING.md` describes: a file with the schedule, a YAML (`tests/conf/edition`), and a row in
the matrix (`tests/editions/test_matrix.py`). To be checked with random numbers and planned, it also has an oracle and a
formula. Those two are here; for an edition of the package they would be in `verify/_oracle.py` and
`planning/_formula.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from mtl_accum import SummedLoss, backward_scale
from mtl_accum.editions import Edition, Schedule, Tasks, Trunk
from mtl_accum.editions._engine import (
    Form,
    Leaves,
    Piece,
    Range,
    Step,
    cut_batch,
    equal_ranges,
    read_counts,
    samples_of,
    take,
)
from mtl_accum.planning import phases
from mtl_accum.planning._phases import Phase, Tables, forward, heads, join_chunk_gradients, size_groups, trunk_backward
from mtl_accum.verify import in_pieces, oracle

__all__ = ["HalvedHeads", "Odd"]


class Odd:
    """Twice the gradient."""

    def forward_backward(self, trunk: Any, tasks: Any, batch: Any) -> Any:
        with backward_scale(2.0):
            return SummedLoss().forward_backward(trunk, tasks, batch)


@final
@dataclass(frozen=True)
class HalvedHeads(Schedule):
    """HalvedHeads: the trunk once; all heads in one graph, for one half of the batch and then for the other.

    Equals::

        z = trunk(batch)
        for half in halves:
            for task in tasks.values():
                task(z[half], half) * task.count(half) / task.count(batch)      # added up, then one backward

    Memory: O(trunk + half of all heads + dL/dz). Passes: one each.
    """

    config_group = "halved_heads"

    def run(self, form: Form, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Schedule.run`."""
        with Step(trunk, tasks, batch, cuts=2, form=form) as step:
            step.refuse_in_pieces(self, allow_batch_statistics=False)
            if step.present:
                representation = step.run_trunk()
                z = Leaves(representation)
                step.run_each(z, representation, step.present, len(step.present))
                step.trunk_backward(z, representation)
        return step.losses()

    def cuts(self, samples: int) -> list[Range]:
        """Return the halves."""
        return equal_ranges(samples, 2)

    def passes(self, samples: int) -> tuple[Any, ...]:
        """Return the number of halves."""
        return (len(self.cuts(samples)),)


@oracle.register(HalvedHeads)
def _(edition: HalvedHeads) -> Edition:
    return _PlainHalves()


@in_pieces.register(HalvedHeads)
def _(edition: HalvedHeads) -> bool:
    return True


class _PlainHalves(Edition):
    """The loop that `HalvedHeads` equals, in the memory of `SummedLoss`."""

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Edition.forward_backward`."""
        whole = (0, samples_of(batch, "batch"))
        halves = cut_batch(batch, equal_ranges(whole[1], 2))
        counts = read_counts(tasks, [Piece(whole, batch), *halves])
        losses = {name: torch.zeros(()) for name in tasks}
        if any(count[whole] for count in counts.values()):
            z = trunk(batch)
            for samples, half in halves:
                for name, task in tasks.items():
                    if share := counts[name][samples] / (counts[name][whole] or 1):
                        losses[name] = losses[name] + share * task(take(z, samples), half)
            sum(losses.values()).backward()
        return {name: loss.detach() for name, loss in losses.items()}


@phases.register
def _(edition: HalvedHeads, tables: Tables, samples: int, first: bool) -> Iterator[Phase]:
    costs = tables.at(samples)
    yield forward("trunk", costs.trunk)
    yield from heads([list(costs.heads)], tables, size_groups(samples, 2, first))
    yield from join_chunk_gradients(costs, 2)
    yield from trunk_backward(costs, first)
