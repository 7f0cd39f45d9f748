"""The training loop: one edition, one optimizer step a window of batches, and what looks on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import torch

from mtl_accum._optimizers import steppable
from mtl_accum._state import RngState
from mtl_accum._train_settings import TrainConfig
from mtl_accum.editions import EditionLike, InBackward, require_edition
from mtl_accum.editions._engine import Piece, read_counts
from mtl_accum.models import MultiTaskModel
from mtl_accum.planning import format_edition
from mtl_accum.training.checkpoint import expect_to_fit, gather, restore
from mtl_accum.training.loop._batches import Position, windows
from mtl_accum.training.loop._learning_rate import make_scheduler
from mtl_accum.training.loop._losses import Losses
from mtl_accum.training.loop._precision import Precision
from mtl_accum.training.loop._signals import StoppedError, stop_requests
from mtl_accum.training.loop._step import NoMemoryLeftError, TrainStep
from mtl_accum.training.loop._update import Update
from mtl_accum.verify import parameters_reached

__all__ = ["Callback", "Training"]

_LOG = logging.getLogger(__name__)


class Callback:
    """Looks on while a run trains; all of it is optional."""

    def on_start(self, run: Training) -> None:
        """Training begins, or goes on."""

    def on_step(self, run: Training) -> None:
        """A step is done."""

    def on_epoch(self, run: Training) -> None:
        """An epoch is done."""

    def on_end(self, run: Training) -> None:
        """Training ends: all epochs are done, a signal asked for it, or memory ran out; the last step is whole."""


class Training:
    """A training run, which can stop after any step and go on from there in another process.

    Args:
        model: on the device already.
        batches: one epoch of them at every iteration.
        schedules: editions; the first one computes the gradient, the others take over where memory runs out: see
            `TrainStep`.
        optimizer: of the model's parameters; or a list of several.
        loop: how to train.
        device: where the batches go.
        callbacks: are told, in this order.
        on_change: told in a sentence when another edition has taken over.

    Attributes:
        position: where it is in its data.
        losses: of all steps.
        ended: why training ended before all epochs were done; empty where it did not.
        kept: what callbacks want to find again when the run goes on; by name, of any nesting.

    Raises:
        ValueError: a task finds no target in any batch, an optimizer needs a closure (LBFGS), or the loop's settings do
            not fit together.
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
        _require_targets(model, batches)
        one = steppable(optimizer)
        if one is None:
            raise ValueError(f"optimizer must be an optimizer of torch or a list of them, found {optimizer!r}")
        self.model, self.batches, self.optimizer, self.loop, self.device = model, batches, one, loop, device
        self.callbacks = list(callbacks)
        self.position, self.ended = Position(), ""
        self.losses = Losses(model.tasks, allow_nan=loop.on_nan == "skip")
        self.kept: dict[str, Any] = {}
        self.precision = Precision(loop.precision, device)
        self.update = Update(model, one, self.precision, clip_norm=loop.clip_norm, on_nan=loop.on_nan)
        self.scheduler, self.plateau = make_scheduler(one, loop.scheduler, warmup_steps=loop.warmup_steps)
        if loop.step_in_backward:
            if len(schedules) > 1:
                _LOG.warning(
                    "step_in_backward=true: a half-done step cannot be rolled back, so nothing takes over if memory "
                    "runs out; not used: %s",
                    ", ".join(map(format_edition, schedules[1:])),
                )
            schedules = [InBackward(schedules[0], one)]
        self.window = TrainStep(
            *(model, one, schedules, device),
            precision=self.precision,
            update=self.update,
            after_first_backward=lambda batch: None if loop.step_in_backward else _require_gradients(model, batch),
            on_change=on_change,
        )

    def run(self) -> dict[str, list[float]]:
        """Train, from where the run is to its end.

        Returns:
            Every task's loss at every step.

        Raises:
            FloatingPointError: a loss is NaN or infinite; names the task and the step.
            NoMemoryLeftError: memory ran out, and no edition is left.
            StoppedError: a signal asked for the end; the step was finished.
            RuntimeError: after the first step a parameter has no gradient that `SummedLoss` would give it.

        Warns:
            UserWarning: a parameter gets no gradient in the first step, whatever the edition.
        """
        self.precision.set_up()
        for callback in self.callbacks:
            callback.on_start(self)
        self.model.train()
        self._remember()
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
            self.losses.add(self.window.step(window))
        except NoMemoryLeftError as error:
            if error.undone and self.callbacks:
                self._random.restore()  # of before this window was read
                self._end()
            raise
        self.position.step += 1
        self.position.batch += len(window)
        if self.scheduler is not None and self.update.stepped:
            self.scheduler.step()
        for callback in self.callbacks:
            callback.on_step(self)
        self._remember()

    def _remember(self) -> None:
        """A callback may write a checkpoint of here, if the next step fails."""
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
        """Tensors by name and what JSON can hold, to go on from.

        Raises:
            FloatingPointError: a loss is NaN or infinite: there is nothing to go on from.
        """
        position = {**vars(self.position), "skipped": self.update.skipped, "ended": self.ended}
        also = {
            "position": {**position, "schedule": format_edition(self.window.edition)},
            "random": RngState.capture(self.batches).state_dict(),
            "losses": self.losses.state(),
            "kept": self.kept,
            **{name: part.state_dict() for name, part in self._parts().items()},
        }
        return gather(self.model, self.optimizer, also)

    def restore(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `state` has said.

        Raises:
            ValueError: it is the state of another model, optimizer or loop.
        """
        state = restore(self.model, self.optimizer, tensors, values)
        with expect_to_fit("loop"):
            position = state["position"]
            self.update.skipped, self.ended, schedule = (position.pop(key) for key in ("skipped", "ended", "schedule"))
            self.position = Position(**position)
            self.window.go_on(self.position.step, schedule)
            self.losses.restore(state["losses"])
            self.kept = state["kept"]
            RngState.from_state_dict(state["random"], self.batches).restore()
            for name, part in self._parts().items():
                part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"scheduler": self.scheduler, "plateau": self.plateau, "scaler": self.precision.scaler}
        return {name: part for name, part in parts.items() if part is not None}


def _require_gradients(model: MultiTaskModel, batch: Any) -> None:
    """Look for parameters that the first step forgot: a detached trunk trains silently, and never learns."""
    counts = read_counts(model.tasks, [Piece(None, batch)])
    present = {name: task for name, task in model.tasks.items() if counts[name][None]}
    if not present:
        return
    absent = [task for name, task in model.tasks.items() if name not in present]
    excused = {id(parameter) for task in absent for parameter in task.parameters()}
    without = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None and id(parameter) not in excused
    }
    if not without:
        return
    reached = parameters_reached(model.trunk, present, batch)
    lost = [name for name, parameter in without.items() if id(parameter) in reached]
    if lost:
        raise RuntimeError(f"no gradient for {', '.join(lost)}, which SummedLoss gives one: the edition is not exact")
    warnings.warn(f"no task's loss depends on {', '.join(without)}: no gradient, they are not trained", stacklevel=3)


def _require_targets(model: MultiTaskModel, batches: Iterable[Any]) -> None:
    """Raise unless every task finds its target in some batch; looks no further than it must."""
    if iter(batches) is batches:
        raise ValueError(
            "data: expected batches anew at every iteration, found an iterator; e.g. a list or a DataLoader"
        )
    missing, keys = set(model.tasks), "nothing"
    for batch in batches:
        missing -= {name for name in missing if _has_target(model.tasks[name], batch)}
        if not missing:
            return
        keys = ", ".join(map(str, batch)) if isinstance(batch, dict) else type(batch).__name__
    raise ValueError(
        f"task '{min(missing)}': expected its target in the data, found batches of {keys}; "
        f"set model.tasks.{min(missing)}.target to one of them"
    )


def _has_target(task: Any, batch: Any) -> bool:
    return not hasattr(task, "target") or task.target(batch) is not None
