"""Edition 1: the usual training step, and the reference of every other edition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from mtl_accum.editions._engine import Form, Schedule, Step, Tasks, Trunk
from mtl_accum.editions._split import Split

__all__ = ["SummedLoss"]


@final
@dataclass(frozen=True)
class SummedLoss(Schedule):
    """Edition 1: all heads, one sum, one backward.

    Equals::

        z = trunk(batch)
        sum(task(z, batch) for task in tasks.values()).backward()

    Memory: O(trunk + all heads): every head's graph is alive at the `+`. Passes: one each.
    Random numbers are drawn and buffers change as in that loop. DDP: wrapped parts are refused, as by every edition;
    average `.grad` over the processes after the call.
    """

    config_group = "summed"

    def run(self, form: Form, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Schedule.run`."""
        if (
            form.defers and form.in_pieces
        ):  # the trunk runs again for each piece, so the heads' graphs end at its representation
            return Split(heads_per_graph=max(1, len(tasks))).run(form, trunk, tasks, batch)
        with Step(trunk, tasks, batch, form=form) as step:
            if step.present:
                z = step.run_trunk()
                for names in form.groups(step.present, len(step.present)):
                    step.backward(step.run_heads(names, z, step.pieces[0]), into_trunk=True)
        return step.losses()
