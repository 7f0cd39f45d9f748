"""The training loop: one edition, one optimizer step a batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mtl_accum._trial import parameters_reached
from mtl_accum.editions import Edition
from mtl_accum.models import MultiTaskModel
from mtl_accum.training._window import Window

__all__ = ["fit"]

_READ_EVERY = 10  # steps; reading a loss waits for the device


def fit(
    model: MultiTaskModel,
    batches: Iterable[Any],
    edition: Edition,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    device: torch.device,
    fallbacks: Sequence[Edition] = (),
    on_step: Callable[[int, dict[str, list[float]]], None] = lambda step, losses: None,
    on_change: Callable[[str], None] = lambda change: None,
) -> dict[str, list[float]]:
    """Train a model.

    Args:
        model: on the device already.
        batches: one epoch of them at every iteration.
        edition: computes the gradient.
        optimizer: of the model's parameters.
        epochs: how often to go through the batches.
        device: where the batches go.
        fallbacks: take over, one after the other, where memory runs out: see `Window`.
        on_step: told the number of steps done and the losses read so far (a few steps behind).
        on_change: told in a sentence when another edition has taken over.

    Returns:
        Every task's loss at every step.

    Raises:
        ValueError: a task finds no target in any batch.
        FloatingPointError: a loss is NaN or infinite; names the task and the step.
        NoMemoryLeftError: memory ran out, and no edition is left.
        RuntimeError: after the first step a parameter has no gradient that `SummedLoss` would give it.

    Warns:
        UserWarning: a parameter gets no gradient in the first step, whatever the edition.
    """
    _require_targets(model, batches)
    names = list(model.tasks)
    losses: dict[str, list[float]] = {name: [] for name in names}
    unread: list[Tensor] = []
    step = 0
    model.train()
    window = Window(
        *(model, optimizer, [edition, *fallbacks], device),
        after_first_backward=lambda batch: _require_gradients(model, batch),
        on_change=on_change,
    )
    for _ in range(epochs):
        for batch in batches:
            unread.append(torch.stack(list(window.step(batch).values())))
            step += 1
            if len(unread) == _READ_EVERY:
                _read(unread, losses)
            on_step(step, losses)
    _read(unread, losses)
    return losses


def _read(unread: list[Tensor], losses: dict[str, list[float]]) -> None:
    """Bring losses over from the device, all at once, and look for NaN."""
    for row in torch.stack(unread).tolist() if unread else []:
        for (name, history), value in zip(losses.items(), row, strict=True):
            history.append(value)
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"task '{name}': loss is {value} at step {len(history)}; a lower learning rate "
                    "(optimizer.lr=...) or weight may help"
                )
    unread.clear()


def _require_gradients(model: MultiTaskModel, batch: Any) -> None:
    """Look for parameters that the first step forgot: a detached trunk trains silently, and never learns."""
    present = {name: task for name, task in model.tasks.items() if _has_target(task, batch)}
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
