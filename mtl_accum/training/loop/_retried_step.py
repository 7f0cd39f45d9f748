"""Optimizer steps with recovery from out-of-memory: the step is rolled back, and the next schedule repeats it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from mtl_accum._state import RollbackError
from mtl_accum.editions import EditionLike, InBackward, OverBatches, phase
from mtl_accum.memory import free_after_failure, is_out_of_memory
from mtl_accum.models import MultiTaskModel
from mtl_accum.planning import format_edition
from mtl_accum.training.loop._device import to_device
from mtl_accum.training.loop._no_memory import NoMemoryLeftError, explain_out_of_memory
from mtl_accum.training.loop._precision import Precision
from mtl_accum.training.loop._rollback import StepRollback
from mtl_accum.training.loop._update import Update

__all__ = ["TrainStep"]

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _OutOfMemory:
    """Result of a call that ran out of memory.

    Attributes:
        reason: First line of the error.
    """

    reason: str


class TrainStep:
    """The optimizer steps of a training run, each complete or without effect.

    A step that runs out of memory is rolled back: gradients are None, and parameters, optimizer state, buffers and
    random numbers are as they were when it began. The next schedule, which needs less memory, repeats the step from its
    first batch and computes all later steps. All schedules compute the same gradient, so the losses are those of a run
    that never ran out of memory.

    Parameters and optimizer state are copied (to the host) in a schedule's first step only, where the optimizer may
    make its state. If memory runs out during a later `optimizer.step()`, its writes cannot be rolled back, and that is
    an error; before the first write, the step can be rolled back.

    Args:
        model: Network, on the device.
        optimizer: Optimizer of its parameters.
        schedules: Editions, each with less memory than the one before. The first one computes the gradient.
        device: Device to move the batches to.
        precision: Precision of trunk and heads.
        update: Update of the parameters from the gradient.
        after_first_backward: Function that is called once, after the first backward, with the first batch.
        on_change: Function that is called with a sentence when the next schedule takes over.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        optimizer: torch.optim.Optimizer,
        schedules: Sequence[EditionLike],
        device: torch.device,
        *,
        precision: Precision,
        update: Update,
        after_first_backward: Callable[[Any], None],
        on_change: Callable[[str], None],
    ) -> None:
        self._model, self._optimizer, self._device = model, optimizer, device
        self._schedules = list(schedules)
        self._trunk, self._tasks = precision.apply(model)
        self._precision, self._update = precision, update
        self._rollback = StepRollback(model, optimizer)
        self._first = True  # the schedule has not completed a step yet
        self._updating = False  # parameters may have been written to
        self._steps = 0
        self._after_first_backward, self._on_change = after_first_backward, on_change

    @property
    def edition(self) -> EditionLike:
        """The schedule that computes the gradient at present."""
        return self._schedules[0]

    def resume(self, steps: int, schedule: str) -> None:
        """Continue after the steps of an earlier process.

        Args:
            steps: Number of steps done.
            schedule: Schedule of the last step, as `format_edition` writes it.
        """
        self._steps = steps
        names = [format_edition(edition) for edition in self._schedules]
        if schedule in names:  # those before it have run out of memory
            self._schedules = self._schedules[names.index(schedule) :]

    def step(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        """Run one step, with the first schedule that fits into memory.

        Args:
            batches: Batches whose gradients add up, on any device.

        Returns:
            The tasks' losses.

        Raises:
            NoMemoryLeftError: No schedule fits, or the optimizer's step cannot be rolled back.
        """
        while len(self._schedules) > 1:
            self._save_start()
            losses = self._attempt(batches)
            if not isinstance(losses, _OutOfMemory):
                return losses
            self._roll_back(losses.reason)
            self._take_over(losses.reason)
        losses = self._attempt(batches)
        if not isinstance(losses, _OutOfMemory):
            return losses
        explanation = explain_out_of_memory(
            *(self._model, self._optimizer, self.edition, batches[0]), device=self._device, reason=losses.reason
        )
        # An edition restores buffers itself; the caller restores the random numbers.
        raise NoMemoryLeftError(f"step {self._steps + 1}: {explanation}", undone=not self._updating)

    def _attempt(self, batches: Sequence[Any]) -> dict[str, Tensor] | _OutOfMemory:
        """Run one step with the present schedule."""
        self._updating = isinstance(self.edition, InBackward)
        losses = self._call(partial(self._run, batches))
        if not isinstance(losses, _OutOfMemory):
            self._first = False
            self._steps += 1
        return losses

    def _call(self, function: Callable[[], _Result]) -> _Result | _OutOfMemory:
        """Call a function; if memory runs out, free the memory that it used and return the reason."""
        try:
            return function()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        # Only after the except clause: inside, the error's traceback keeps the step's tensors alive.
        for parameter in self._model.parameters():
            parameter.grad = None
        free_after_failure(self._device, reason)
        return _OutOfMemory(reason)

    def _save_start(self) -> None:
        """Save the start of the step; without copies of parameters and optimizer state if they do not fit."""
        failure = self._call(partial(self._rollback.mark, copy=self._first))
        if failure is not None and self._first:
            failure = self._call(partial(self._rollback.mark, copy=False))
        if failure is not None:
            raise NoMemoryLeftError(
                f"step {self._steps + 1}: memory ran out before it began ({failure.reason}); a smaller batch or "
                "smaller samples",
                undone=True,
            )

    def _run(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        with phase("zero_grad", "zero_grad"):
            self._optimizer.zero_grad()
        self._update.before()
        with self._precision.scaled():
            window = OverBatches(self.edition, prepare=partial(to_device, device=self._device))
            losses = window.forward_backward(self._trunk, self._tasks, batches)
        losses = {name: loss.to(self._device) for name, loss in losses.items()}  # an absent task's may be on the CPU
        if self._steps == 0:
            self._after_first_backward(to_device(batches[0], self._device))
        self._updating = True
        with phase("optimizer", "optimizer"):
            self._update(losses, self._steps + 1)
        return losses

    def _roll_back(self, reason: str) -> None:
        """Return to the start of the step."""
        try:
            self._rollback.restore()
        except RollbackError:
            raise NoMemoryLeftError(
                f"step {self._steps + 1}: memory ran out in the middle of optimizer.step(), which had changed "
                f"parameters already ({reason}); go on from a checkpoint",
                undone=False,
            ) from None
        self._precision.reset()

    def _take_over(self, reason: str) -> None:
        """Drop the first schedule, and report the change."""
        before, *self._schedules = self._schedules
        self._first = True
        change = (
            f"step {self._steps + 1}: {format_edition(before)} ran out of memory ({reason}); "
            f"{format_edition(self.edition)}, with the same gradient, goes on from there"
        )
        _LOG.warning(change)
        self._on_change(change)
