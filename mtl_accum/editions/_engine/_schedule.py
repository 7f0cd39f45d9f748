"""The base class of editions that have a `loss`: `forward_backward`, `loss` and `losses` from one method."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from mtl_accum.editions._engine._eager import eager
from mtl_accum.editions._engine._edition import Edition, class_of
from mtl_accum.editions._engine._forms import Attached, Backward, Form
from mtl_accum.editions._engine.graph._gradients import Scale, factor_of
from mtl_accum.editions._engine.graph._scale import ambient_scale, expecting
from mtl_accum.editions._engine.ranks._agreement import Ranks
from mtl_accum.editions._engine.ranks._share_out import share_out

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from mtl_accum.editions._engine._types import Tasks, Trunk

__all__ = ["Schedule", "run_inner"]


class Schedule(Edition):
    """An edition whose passes are written once, in `run`, for all the forms that a caller may want.

    Attributes:
        no_loss: Why the schedule has no `loss`, and what to use in its place; None where it has one.
    """

    no_loss: ClassVar[str | None] = None

    @abstractmethod
    def run(self, form: Form, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """Run the schedule, and return the tasks' own losses, detached, in the tasks' order."""

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Edition.forward_backward`."""
        return self.run(Backward(), trunk, tasks, batch)

    @eager
    def loss(
        self, trunk: Trunk, tasks: Tasks, batch: Any, *, scale: Scale | None = None, group: ProcessGroup | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the losses, whose heads' graphs are gone, for a loop that runs `.backward()` itself.

        The trunk stays in autograd's own graph. Each head ran forward and backward already: its gradients are attached
        to the sum, with one dL/dz for all heads (added up in float32 where the representation is 16 bit). So
        `total.backward()` adds to every `.grad` what `sum(losses).backward()` would: under Lightning, Accelerate,
        Hugging Face's Trainer, DDP, FSDP2, with clipping, loss scaling and accumulation, without an adapter::

            total, losses = Split().loss(model.trunk, model.tasks, batch)
            total.backward()

        Memory: the schedule's, and a copy of the heads' gradients until the backward. For a loop of one's own
        `forward_backward` is leaner by that copy. Passes: the schedule's; under `torch.no_grad()` one each, without a
        graph. Absent tasks are as in `forward_backward`; where all are, the backward runs and reaches nothing.

        On several processes the loss is that of the batch of all ranks, for engines that average gradients, as DDP and
        FSDP2 do: each rank's loss is weighted by its share of the terms of each task, and tasks that are absent here
        and present elsewhere take part with zeros. One collective, in training only. A task that is absent on all ranks
        keeps `.grad` None under FSDP2 and `DDP(find_unused_parameters=True)`. Other DDPs do not allow that, and raise:
        with `static_graph=True` the tasks that are absent on all ranks must be the same in every step, or its gradients
        would be wrong; `require_equal_gradients` compares gradients across ranks in the first steps. Modules of
        `fully_shard` run on all ranks together: `Cached` in them needs batches of one size.

        Args:
            trunk: Maps the batch to a representation: any pytree of tensors.
            tasks: By name; see `Edition.forward_backward`.
            batch: Any pytree.
            scale: What the sum will be multiplied by before its backward, for heads in fp16: a number, a 0-dim tensor
                or a callable such as `scaler.get_scale`.
            group: The ranks that share a step; by default all. A group of this rank alone keeps the loss to itself.

        Returns:
            The sum, 0-dim, to call `.backward()` on; and the tasks' own losses, detached, in the tasks' order.

        Raises:
            TypeError: The schedule has no such form, or what `forward_backward` raises.
            ValueError: scale is not greater than 0, or what `forward_backward` raises. On several ranks: this process
                is not in the group, a task couples samples, or ranks have other tasks, schedules or numbers of pieces.
            RuntimeError: A task is absent on all ranks, and DDP waits for it; another rank cannot take part in a task
                (see the message); there is a `backward_scale` around the call (multiply the sum in its place); values
                are in float16 without scale; or what `forward_backward` and `fold` raise.
        """
        form = Attached(factor_of(scale), each=False)
        losses = self._run_attached(form, trunk, tasks, batch, group)
        return form.total(losses), losses

    @eager
    def losses(
        self, trunk: Trunk, tasks: Tasks, batch: Any, *, scale: Scale | None = None, group: ProcessGroup | None = None
    ) -> dict[str, Tensor]:
        """Return every task's loss with its own gradient attached: for weights of one's own, balancing, TorchJD.

        As `loss`, with a dL/dz for each task in place of one for all. Heads run one by one, whatever
        `heads_per_graph` is.

        Memory: the schedule's, a copy of the heads' gradients, and T dL/dz until the backward.

        Args:
            trunk: See `loss`.
            tasks: See `loss`.
            batch: See `loss`.
            scale: See `loss`.
            group: See `loss`.

        Returns:
            The tasks' losses, 0-dim, in the tasks' order. The backward of an absent task's reaches nothing.

        Raises:
            TypeError: See `loss`.
            ValueError: See `loss`.
            RuntimeError: See `loss`.
        """
        form = Attached(factor_of(scale), each=True)
        return form.separate(self._run_attached(form, trunk, tasks, batch, group))

    def _run_attached(
        self, form: Attached, trunk: Trunk, tasks: Tasks, batch: Any, group: ProcessGroup | None
    ) -> dict[str, Tensor]:
        if ambient_scale() is not None:
            raise RuntimeError(
                "loss: expected no backward_scale around it, whose factor is for a backward that an edition runs; "
                "multiply what loss returns, e.g. scaler.scale(total)"
            )
        ranks = Ranks.of(group)
        if ranks is not None:
            tasks, form.together = share_out(self, trunk, tasks, batch, ranks)
        with expecting(form.scale):
            return run_inner(form, self, trunk, tasks, batch)


def run_inner(form: Form, edition: Edition, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
    """Run an edition in a form.

    Raises:
        TypeError: The edition has no `loss`, and the form needs one.
    """
    if not form.defers:
        return edition.forward_backward(trunk, tasks, batch)
    name = class_of(edition).__name__
    if not isinstance(edition, Schedule):
        raise TypeError(f"{name} has no loss, only forward_backward; use an edition that has one, e.g. Split()")
    if edition.no_loss is not None:
        raise TypeError(f"{name} has no loss: {edition.no_loss}")
    return edition.run(form, trunk, tasks, batch)
