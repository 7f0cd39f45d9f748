"""The trunk once, the heads one by one: the memory of Edition 2 at the cost of Edition 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

from torch import Tensor

from mtl_accum._validate import boolean, positive_int
from mtl_accum.editions._engine import Form, Leaves, Range, Schedule, Step, Tasks, Trunk, equal_ranges

__all__ = ["Split"]


@final
@dataclass(frozen=True)
class Split(Schedule):
    """Split: the trunk once; each head alone, forward and backward, on the detached representation.

    Equals::

        with cut(trunk(batch)) as z:
            for task in tasks.values():
                task(z, batch).backward()

    Memory: O(trunk + largest head + dL/dz). Passes: one each, as `SummedLoss`.

    Steps:
        1. Trunk forward, once; its representation is detached as leaves.
        2. Each head forward and backward; its graph dies, dL/dz adds up in the leaves.
        3. Trunk backward, once, from the summed dL/dz.

    In float32 the gradient is `SummedLoss`'s to the last bit for two tasks, and for more with `order="reverse"`,
    where heads_per_graph and head_chunks are 1 and each head reads each tensor of the representation once and
    draws no random numbers. Head chunks draw other, equally valid dropout masks than the whole batch does.

    DDP: refused; plain modules, and `.grad` averaged over the processes after the call, exact where they have equal
    counts of every task. FSDP2: trunk and heads as roots of their own, where every process has every task in equal
    counts. AMP: autocast in the callables; dL/dz adds up in float32 where the representation is 16 bit. BatchNorm:
    unchanged in the trunk, and in heads where head_chunks is 1.

    Reference: the chain rule at the representation, as in Sener and Koltun (2018), Multi-Task Learning as
    Multi-Objective Optimization, who use dL/dz of each task for its weights.

    Args:
        heads_per_graph: Number of heads that share one graph and one backward; more than 1 for many tiny heads.
        head_chunks: Number of pieces of the batch that each head runs over, one after the other; for a large head.
        order: Order of the tasks; "reverse" adds dL/dz up as autograd does for the summed loss.
        allow_batch_statistics: Whether heads may use statistics of the chunks.

    Raises:
        ValueError: An argument is out of range; or, in head chunks, a head uses batch statistics, a task
            couples samples, or a tensor cannot be cut.
    """

    config_group = "split"

    heads_per_graph: int = 1
    head_chunks: int = 1
    order: Literal["forward", "reverse"] = "forward"
    allow_batch_statistics: bool = False

    def __post_init__(self) -> None:
        positive_int("heads_per_graph", self.heads_per_graph)
        positive_int("head_chunks", self.head_chunks)
        boolean("allow_batch_statistics", self.allow_batch_statistics)
        if self.order not in ("forward", "reverse"):
            raise ValueError(f"order must be 'forward' or 'reverse', found {self.order!r}")

    def run(self, form: Form, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Schedule.run`."""
        with Step(trunk, tasks, batch, cuts=self.head_chunks, form=form) as step:
            step.refuse_in_pieces(self, allow_batch_statistics=self.allow_batch_statistics)
            names = step.present if self.order == "forward" else step.present[::-1]
            if names:
                representation = step.run_trunk()
                z = Leaves(representation)
                step.run_each(z, representation, names, self.heads_per_graph)
                step.trunk_backward(z, representation)
        return step.losses()

    def cuts(self, samples: int) -> list[Range]:
        """Return the head chunks."""
        return equal_ranges(samples, self.head_chunks)

    def passes(self, samples: int) -> tuple[Any, ...]:
        """Return the number of head chunks, if there are several."""
        return (len(self.cuts(samples)),) if self.head_chunks > 1 else ()
