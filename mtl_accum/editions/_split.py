"""The trunk once, the heads one by one: Edition 2's memory at Edition 1's cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from mtl_accum.editions._cut import cut
from mtl_accum.editions._step import Step
from mtl_accum.editions._types import Tasks, Trunk

__all__ = ["Split"]


@final
@dataclass(frozen=True)
class Split:
    """Split: the trunk once; each head alone, forward and backward, on the detached representation.

    Equals::

        with cut(trunk(batch)) as z:
            for task in tasks.values():
                task(z, batch).backward()

    Memory: O(trunk + largest head + dL/dz). Passes: one each, as `SummedLoss`.

    Steps:
        1. Trunk forward, once; its representation is cut off as leaves.
        2. Each head forward and backward; its graph dies, dL/dz adds up in the leaves.
        3. Trunk backward, once, from the summed dL/dz.

    In float32 two tasks give `SummedLoss`'s gradient to the last bit where each head reads each tensor of the
    representation once. DDP, FSDP2: wrap trunk and heads each on their own, every part has one backward. AMP:
    autocast in the callables; dL/dz adds up in float32 where the representation is 16 bit. BatchNorm: as ever.

    Reference: the chain rule at the representation, as in Sener and Koltun (2018), Multi-Task Learning as
    Multi-Objective Optimization, who use dL/dz of each task for its weights.
    """

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Edition.forward_backward`."""
        with Step(trunk, tasks, batch) as step:
            if step.present:
                with cut(step.run_trunk()) as z:
                    for name in step.present:
                        step.backward(step.run_heads([name], z))
        return step.losses()
