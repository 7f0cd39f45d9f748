"""One optimizer step that can be undone: if memory runs out, the next schedule takes over from its start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtl_accum._state import RollbackError
from mtl_accum.editions import EditionLike, InBackward, OverBatches, phase
from mtl_accum.memory import PeakMemory, is_out_of_memory, recover
from mtl_accum.models import MultiTaskModel
from mtl_accum.planning import format_edition
from mtl_accum.prediction import predict
from mtl_accum.report import mib
from mtl_accum.training.loop._device import to_device
from mtl_accum.training.loop._precision import Precision
from mtl_accum.training.loop._rollback import StepRollback
from mtl_accum.training.loop._update import Update

__all__ = ["NoMemoryLeftError", "TrainStep"]

_LOG = logging.getLogger(__name__)


class NoMemoryLeftError(MemoryError):
    """Memory ran out, and there is no schedule left that needs less; the message says what needs how much.

    Attributes:
        undone: whether model and optimizer are as they were after the last step that was done.
    """

    def __init__(self, message: str, *, undone: bool) -> None:
        super().__init__(message)
        self.undone = undone


class TrainStep:
    """The optimizer steps of a training run, each whole or not at all.

    A step that runs out of memory is undone: gradients None, parameters, optimizer state, buffers and random numbers
    as they were when it began. The next schedule, which needs less memory, does it from its first batch and goes on
    from there. All schedules compute the same gradient, so the losses are those of a run where nothing happened.

    Parameters and optimizer state are copied (to the host) in a schedule's first step only, where the optimizer may
    make its state. If memory runs out in the middle of a later `optimizer.step()`, what it had written by then cannot
    be undone, and that is an error; before it has written anything, it can.

    Args:
        model: on the device.
        optimizer: of its parameters.
        schedules: the first one computes the gradient, the others take over, each with less memory.
        device: where the batches go.
        precision: how trunk and heads are computed.
        update: what happens once the gradient is there.
        after_first_backward: called once, with the first batch on the device, when its gradients are there.
        on_change: told in a sentence when a schedule takes over.
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
        self._trunk, self._tasks = precision.of(model)
        self._precision, self._update = precision, update
        self._undo = StepRollback(model, optimizer)
        self._fresh = True  # no step of this schedule is done
        self._updating = False  # parameters may be written to
        self._steps = 0
        self._after_first_backward, self._on_change = after_first_backward, on_change

    @property
    def edition(self) -> EditionLike:
        """The schedule that computes the gradient now."""
        return self._schedules[0]

    def go_on(self, steps: int, schedule: str) -> None:
        """So many steps are done already, and this schedule was the last one, as `format_edition` says it."""
        self._steps = steps
        names = [format_edition(edition) for edition in self._schedules]
        if schedule in names:  # those before it have run out of memory
            self._schedules = self._schedules[names.index(schedule) :]

    def step(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        """Do one, with as many schedules as it needs.

        Args:
            batches: whose gradients add up, on any device.

        Returns:
            The tasks' losses.

        Raises:
            NoMemoryLeftError: none of the schedules fits, or the optimizer's step cannot be undone.
        """
        while True:
            last = len(self._schedules) == 1
            if not last:
                self._mark()
            self._updating = isinstance(self.edition, InBackward)
            try:
                losses = self._run(batches)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            else:
                self._fresh = False
                self._steps += 1
                return losses
            self._free(reason)  # here the error has let go of the step's tensors
            if last:  # an edition leaves buffers as they were; the random numbers are the caller's
                raise NoMemoryLeftError(self._in_words(batches[0], reason), undone=not self._updating)
            try:
                self._undo.restore()
            except RollbackError:
                raise NoMemoryLeftError(
                    f"step {self._steps + 1}: memory ran out in the middle of optimizer.step(), which had changed "
                    f"parameters already ({reason}); go on from a checkpoint",
                    undone=False,
                ) from None
            self._precision.undo()
            self._take_over(reason)

    def _mark(self) -> None:
        """Note the step's start; without copies of the weights where there is no room for them."""
        for copy in (True, False) if self._fresh else (False,):
            try:
                return self._undo.mark(copy=copy)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            self._free(reason)
        raise NoMemoryLeftError(
            f"step {self._steps + 1}: memory ran out before it began ({reason}); a smaller batch or smaller samples",
            undone=True,
        )

    def _run(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        with phase("zero_grad", "zero_grad"):
            self._optimizer.zero_grad()
        self._update.before()
        with self._precision.scaled():
            window = OverBatches(self.edition, prepare=partial(to_device, device=self._device))
            losses = window.forward_backward(self._trunk, self._tasks, batches)
        losses = {name: loss.to(self._device) for name, loss in losses.items()}  # of absent tasks they may be elsewhere
        if self._steps == 0:
            self._after_first_backward(to_device(batches[0], self._device))
        self._updating = True
        with phase("optimizer", "optimizer"):
            self._update(losses, self._steps + 1)
        return losses

    def _take_over(self, reason: str) -> None:
        before, *self._schedules = self._schedules
        self._fresh = True
        change = (
            f"step {self._steps + 1}: {format_edition(before)} ran out of memory ({reason}); "
            f"{format_edition(self.edition)}, with the same gradient, goes on from there"
        )
        _LOG.warning(change)
        self._on_change(change)

    def _free(self, reason: str) -> None:
        for parameter in self._model.parameters():
            parameter.grad = None
        recover(self._device, reason)

    def _in_words(self, batch: Any, reason: str) -> str:
        there = f"; free on {self._device} now: {_free_bytes(self._device)}" if self._device.type == "cuda" else ""
        needs = ""
        with suppress(Exception):  # what cannot be predicted is not said; a half-made optimizer state raises anything
            peak = predict(
                *(self._model.trunk, self._model.tasks, batch),
                optimizer=self._optimizer,
                edition=self.edition,
                device=self._device.type,
            )
            needs = _breakdown(peak)
        return (
            f"step {self._steps + 1}: memory ran out in {format_edition(self.edition)} ({reason}){needs}{there}; a "
            "smaller batch or smaller samples, or job=plan for a schedule that fits"
        )


def _breakdown(peak: PeakMemory) -> str:
    if peak.categories is None:
        return ""
    sizes = {field.name.replace("_", " "): getattr(peak.categories, field.name) for field in fields(peak.categories)}
    parts = ", ".join(f"{name} {mib(size)}" for name, size in sizes.items() if size)
    return f"; it needs {mib(peak.categories.total)} ({parts}; the most in {peak.peak_phase})"


def _free_bytes(device: torch.device) -> str:
    return mib(torch.cuda.mem_get_info(device)[0])
