"""Edition 1: what everybody writes, and what every other edition is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from mtl_accum.editions._step import Step
from mtl_accum.editions._types import Tasks, Trunk

__all__ = ["SummedLoss"]


@final
@dataclass(frozen=True)
class SummedLoss:
    """Edition 1: all heads, one sum, one backward.

    Equals::

        z = trunk(batch)
        sum(task(z, batch) for task in tasks.values()).backward()

    Memory: O(trunk + all heads): every head's graph is alive at the `+`. Passes: one each.
    Random numbers are drawn and buffers change as in that loop. DDP: parts wrapped in it are refused, as everywhere;
    average `.grad` over the processes after the call.
    """

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Edition.forward_backward`."""
        with Step(trunk, tasks, batch) as step:
            if step.present:
                z = step.run_trunk()
                step.backward(step.run_heads(step.present, z, step.pieces[0]), into_trunk=True)
        return step.losses()
