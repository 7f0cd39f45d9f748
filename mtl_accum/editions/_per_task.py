"""Edition 2: one task and its graph at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from mtl_accum.editions._engine import Form, Schedule, Step, Tasks, Trunk, refuse_hidden_modules

__all__ = ["PerTask"]


@final
@dataclass(frozen=True)
class PerTask(Schedule):
    """Edition 2: each task runs trunk, head and backward on its own; the gradients add up in `.grad`.

    Equals::

        for task in tasks.values():
            task(trunk(batch), batch).backward()

    with the same random numbers and the same buffers in every pass through the trunk.

    Memory: O(trunk + largest head). Passes: trunk T forward and T backward, heads one each; `Split` needs the
    same memory and one trunk pass.

    Steps:
        1. The first task's pass is live: it draws random numbers and changes buffers.
        2. Every later pass replays the trunk from the state before the first one; heads run live.
        3. The random stream and the buffers end where `SummedLoss` leaves them.

    With 16-bit parameters `.grad` itself adds up in 16 bit, once a task; with float32 parameters under autocast
    it does not. DDP: refused, as each backward would synchronise; average `.grad` after the call. AMP: autocast in
    the callables, `backward_scale` for the scaler. BatchNorm: statistics change once.

    Raises:
        ValueError: The trunk is a compiled function behind which no module can be found.
        ReplayError: A later pass of the trunk differs from its first one (compared in its first three steps).
    """

    config_group = "per_task"
    no_loss = "each task's pass through the trunk would be kept until the backward; use Split(), which runs it once"

    def run(self, form: Form, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Schedule.run`."""
        refuse_hidden_modules(self, {"trunk": trunk})
        with Step(trunk, tasks, batch, form=form) as step:
            _, (replay,) = step.replays(self, 1)
            for name in step.present:
                z = step.run_again(replay)
                loss = step.run_heads([name], z, step.pieces[0])
                with replay.backward():
                    step.backward(loss, into_trunk=True)
                del z, loss  # free this task's tensors before the next trunk pass
        return step.losses()
