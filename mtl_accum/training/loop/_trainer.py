"""The training loop: epochs, steps, callbacks, and resuming from saved state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import torch

from mtl_accum._optimizers import steppable
from mtl_accum._state import RngState
from mtl_accum._train_settings import TrainConfig
from mtl_accum.editions import EditionLike, InBackward, require_edition
from mtl_accum.models import MultiTaskModel
from mtl_accum.planning import format_edition
from mtl_accum.training.checkpoint import collect, expect_to_fit, restore
from mtl_accum.training.loop._batches import Position, windows
from mtl_accum.training.loop._learning_rate import make_scheduler
from mtl_accum.training.loop._losses import Losses
from mtl_accum.training.loop._no_memory import NoMemoryLeftError
from mtl_accum.training.loop._precision import Precision
from mtl_accum.training.loop._requirements import require_gradients, require_targets
from mtl_accum.training.loop._retried_step import TrainStep
from mtl_accum.training.loop._signals import StoppedError, stop_requests
from mtl_accum.training.loop._update import Update

__all__ = ["Callback", "Training"]

_LOG = logging.getLogger(__name__)


class Callback:
    """Observer of a training run; every method is optional."""

    def on_start(self, run: Training) -> None:
        """Handle the start of training, or its continuation in a new process."""

    def on_step(self, run: Training) -> None:
        """Handle the end of a step."""

    def on_epoch(self, run: Training) -> None:
        """Handle the end of an epoch."""

    def on_end(self, run: Training) -> None:
        """Handle the end of training: after the last epoch, a signal or out-of-memory, with the last step complete."""


class Training:
    """A training run that can stop after any step and resume in another process.

    Args:
        model: Network, on the device already.
        batches: Iterable of one epoch's batches, iterated once an epoch.
        schedules: Editions; the first one computes the gradient, the others take over if memory runs out, see
            `TrainStep`.
        optimizer: Optimizer of the model's parameters, or a list of several.
        loop: Settings of the loop.
        device: Device to move the batches to.
        callbacks: Callbacks, called in this order.
        on_change: Function that is called with a sentence when another edition has taken over.

    Attributes:
        position: Position of the run in its data.
        losses: Losses of all steps.
        ended: Reason why training ended before the last epoch; empty if it did not.
        kept: State of callbacks that a resumed run needs, by name and of any nesting.

    Raises:
        ValueError: No batch has a task's target, an optimizer needs a closure (LBFGS), or the loop's settings do not
            fit together.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        batches: Iterable[Any],
        schedules: Sequence[EditionLike],
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        loop: TrainConfig,
        *,
        device: torch.device,
        callbacks: Sequence[Callback] = (),
        on_change: Callable[[str], None] = lambda change: None,
    ) -> None:
        for edition in schedules:
            require_edition(edition)
        require_targets(model, batches)
        joint = steppable(optimizer)
        if joint is None:
            raise ValueError(f"optimizer must be an optimizer of torch or a list of them, found {optimizer!r}")
        self.model, self.batches, self.optimizer, self.loop, self.device = model, batches, joint, loop, device
        self.callbacks = list(callbacks)
        self.position, self.ended = Position(), ""
        self.losses = Losses(model.tasks, allow_nan=loop.on_nan == "skip")
        self.kept: dict[str, Any] = {}
        self.precision = Precision(loop.precision, device)
        self.update = Update(model, joint, self.precision, clip_norm=loop.clip_norm, on_nan=loop.on_nan)
        self.scheduler, self.plateau = make_scheduler(joint, loop.scheduler, warmup_steps=loop.warmup_steps)
        if loop.step_in_backward:
            if len(schedules) > 1:
                _LOG.warning(
                    "step_in_backward=true: a half-done step cannot be rolled back, so nothing takes over if memory "
                    "runs out; not used: %s",
                    ", ".join(map(format_edition, schedules[1:])),
                )
            schedules = [InBackward(schedules[0], joint)]
        self.train_step = TrainStep(
            *(model, joint, schedules, device),
            precision=self.precision,
            update=self.update,
            after_first_backward=lambda batch: None if loop.step_in_backward else require_gradients(model, batch),
            on_change=on_change,
        )

    def run(self) -> dict[str, list[float]]:
        """Train from the current position to the end.

        Returns:
            Every task's loss at every step.

        Raises:
            FloatingPointError: A loss is NaN or infinite; names the task and the step.
            NoMemoryLeftError: Memory ran out with every edition.
            StoppedError: A signal arrived; the step was finished.
            RuntimeError: A parameter without a gradient after the first step gets one from `SummedLoss`.
            ValueError: An epoch has no batches.

        Warns:
            UserWarning: No task's loss depends on a parameter.
        """
        self.precision.set_up()
        for callback in self.callbacks:
            callback.on_start(self)
        self.model.train()
        self._save_random()
        with stop_requests() as stop:
            while self.position.epoch < self.loop.epochs and not self.ended:
                before = self.position.step, self.position.batch
                for window in windows(self.batches, self.position, self.loop.accumulate):
                    self._step(window)
                    if stop.signal:
                        self._stop(stop.signal)
                if before == (self.position.step, 0):
                    raise ValueError("data: expected batches in every epoch, found none")
                self.position.epoch, self.position.batch = self.position.epoch + 1, 0
                for callback in self.callbacks:
                    callback.on_epoch(self)
                if stop.signal:
                    self._stop(stop.signal)
                self.model.train()
        self._end()
        return self.losses.history

    def _step(self, window: Sequence[Any]) -> None:
        try:
            self.losses.add(self.train_step.step(window))
        except NoMemoryLeftError as error:
            if error.undone and self.callbacks:
                self._random.restore()  # reading the window may have drawn random numbers
                self._end()
            raise
        self.position.step += 1
        self.position.batch += len(window)
        if self.scheduler is not None and self.update.stepped:
            self.scheduler.step()
        for callback in self.callbacks:
            callback.on_step(self)
        self._save_random()

    def _save_random(self) -> None:
        """Save the random numbers after a complete step: if the next one fails, callbacks may write a checkpoint."""
        if self.callbacks:
            self._random = RngState.capture(self.batches)

    def _stop(self, number: int) -> NoReturn:
        self._end()
        raise StoppedError(f"stopped after step {self.position.step}", number)

    def _end(self) -> None:
        self.losses.read()
        for callback in self.callbacks:
            callback.on_end(self)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return what `restore` needs to resume: tensors by name, and values that JSON can hold.

        Raises:
            FloatingPointError: A loss is NaN or infinite.
        """
        position = {**vars(self.position), "skipped": self.update.skipped, "ended": self.ended}
        other = {
            "position": {**position, "schedule": format_edition(self.train_step.edition)},
            "random": RngState.capture(self.batches).state_dict(),
            "losses": self.losses.state(),
            "kept": self.kept,
            **{name: part.state_dict() for name, part in self._parts().items()},
        }
        return collect(self.model, self.optimizer, other)

    def restore(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Resume from what `state` returned.

        Args:
            tensors: Tensors by name.
            values: Values that JSON can hold.

        Raises:
            ValueError: The state is that of another model, optimizer or loop.
        """
        state = restore(self.model, self.optimizer, tensors, values)
        with expect_to_fit("loop"):
            position = state["position"]
            self.update.skipped, self.ended, schedule = (position.pop(key) for key in ("skipped", "ended", "schedule"))
            self.position = Position(**position)
            self.train_step.resume(self.position.step, schedule)
            self.losses.restore(state["losses"])
            self.kept = state["kept"]
            RngState.from_state_dict(state["random"], self.batches).restore()
            for name, part in self._parts().items():
                part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"scheduler": self.scheduler, "plateau": self.plateau, "scaler": self.precision.scaler}
        return {name: part for name, part in parts.items() if part is not None}
