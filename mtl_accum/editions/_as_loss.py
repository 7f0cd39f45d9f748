"""The loss of an edition and its backward, as an edition: to measure, check and plan what a trainer runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from mtl_accum._validate import boolean
from mtl_accum.editions._engine import (
    Attached,
    Edition,
    Form,
    Schedule,
    Tasks,
    Trunk,
    phase,
    require_edition,
    run_inner,
    set_aside,
    warn_of_ranks,
    without_autocast,
)

__all__ = ["AsLoss"]


@final
@dataclass(frozen=True)
class AsLoss(Schedule):
    """AsLoss: an edition's `loss`, and then the backward that a trainer runs.

    Equals::

        total, losses = edition.loss(trunk, tasks, batch)
        total.backward()

    `compare`, `predict`, `plan` and `check` use it for training loops whose trainer runs the backward.

    On several processes each one has its own gradients, as with every `forward_backward`.

    Memory: the edition's, and a copy of the heads' gradients. Passes: the edition's; editions that run the trunk in
    pieces run it again in the backward.

    Args:
        edition: Edition that computes the loss.
        each: Whether to backpropagate `sum(edition.losses(...).values())` instead: a dL/dz for each task.

    Raises:
        TypeError: `edition` has no `loss`.
    """

    config_group = "as_loss"

    edition: Schedule
    each: bool = False

    def __post_init__(self) -> None:
        require_edition(self.edition)
        boolean("each", self.each)
        if not isinstance(self.edition, Schedule) or self.edition.no_loss is not None:
            raise TypeError(f"edition must have a loss, found {self.edition!r}; e.g. Split()")

    @property
    def inner(self) -> Edition:
        """The edition inside."""
        return self.edition

    def run(self, form: Form, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Schedule.run`."""
        if form.defers:
            return run_inner(form, self.edition, trunk, tasks, batch)
        with set_aside() as scale:
            attached = Attached(scale, each=self.each)  # not `loss`, which averages over several processes
            losses = run_inner(attached, self.edition, trunk, tasks, batch)
            if self.each:
                first, *others = attached.separate(losses).values()
                total = sum(others, first)
            else:
                total = attached.total(losses)
        warn_of_ranks()
        with phase("trunk", "backward"), without_autocast():
            (total if scale is None else total * scale).backward()
        return losses
