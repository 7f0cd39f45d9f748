"""Learning rates: scaling with the batch size, warm-up, and schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from mtl_accum._knob_rules import check_knob
from mtl_accum._validate import natural, positive_int

__all__ = ["Warmup", "make_scheduler", "scale_learning_rate"]

_RULES: dict[str, Callable[[float], float]] = {"none": lambda _: 1.0, "linear": lambda ratio: ratio, "sqrt": math.sqrt}


def scale_learning_rate(
    optimizer: torch.optim.Optimizer, rule: str, *, batch_size: int | None, accumulate: int, base_batch_size: int | None
) -> str:
    """Scale the optimizer's learning rates from the base batch to the effective batch.

    "linear" multiplies by the ratio of the two sizes (Goyal et al., 2017, Accurate, Large Minibatch SGD).
    "sqrt" multiplies by its square root, which suits adaptive optimizers (Malladi et al., 2022, On the SDEs
    and Scaling Rules for Adaptive Gradient Algorithms).

    Args:
        optimizer: Optimizer whose learning rates to change.
        rule: Name of the rule: "none", "linear" or "sqrt".
        batch_size: Number of samples in a batch of the loader; None if unknown.
        accumulate: Number of batches in a step.
        base_batch_size: Number of samples in a step that the configured learning rate was chosen for.

    Returns:
        A sentence for the user: the effective batch, and the learning rate with its reason.

    Raises:
        ValueError: There is no such rule, or a size that the rule needs is missing.
    """
    check_knob("lr_scaling", rule)
    effective = None if batch_size is None else batch_size * accumulate
    size = f"{effective} samples" if effective else "an unknown number of samples"
    composition = f" ({accumulate} batches of {batch_size})" if accumulate > 1 and batch_size else ""
    before = [float(group["lr"]) for group in optimizer.param_groups]
    if rule == "none":
        return f"A step is {size}{composition} at a learning rate of {_format_rates(before)}."
    if effective is None or base_batch_size is None:
        missing = "base_batch_size" if base_batch_size is None else "data.batch_size"
        raise ValueError(f"lr_scaling={rule}: expected {missing}, to scale by; found none")
    positive_int("base_batch_size", base_batch_size)
    factor = _RULES[rule](effective / base_batch_size)
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * factor
    after = [float(group["lr"]) for group in optimizer.param_groups]
    return (
        f"A step is {size}{composition}, {effective / base_batch_size:g} times the base batch of {base_batch_size}: "
        f"the learning rate is {_format_rates(after)} instead of {_format_rates(before)} ({rule} scaling)."
    )


class Warmup:
    """Linear warm-up around another scheduler: its learning rate times a factor that rises to 1.

    Args:
        optimizer: Optimizer whose learning rates to change.
        steps: Number of steps until the factor is 1; the factor begins at 1 / steps.
        scheduler: Scheduler to warm up; None for a constant learning rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int, scheduler: LRScheduler | None) -> None:
        self._optimizer, self._steps, self._scheduler = optimizer, steps, scheduler
        self._done = 0
        self._multiply(self._factor)

    def step(self) -> None:
        """Set the learning rates of the next step; to be called after each step of the optimizer."""
        self._multiply(1 / self._factor)  # some schedulers compute the next rate from the rate in the optimizer
        self._done += 1
        if self._scheduler is not None:
            self._scheduler.step()
        self._multiply(self._factor)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to resume."""
        return {"done": self._done, "scheduler": None if self._scheduler is None else self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state; the optimizer's own state holds the learning rates."""
        self._done = state["done"]
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])

    @property
    def _factor(self) -> float:
        return min(1.0, (self._done + 1) / self._steps)

    def _multiply(self, factor: float) -> None:
        if factor != 1.0:
            for group in self._optimizer.param_groups:
                group["lr"] = group["lr"] * factor


def make_scheduler(
    optimizer: torch.optim.Optimizer, make: Callable[[torch.optim.Optimizer], Any] | None, *, warmup_steps: int
) -> tuple[LRScheduler | Warmup | None, Any]:
    """Make the learning rate schedulers of a run.

    Args:
        optimizer: Optimizer whose learning rates to change.
        make: Function that makes a scheduler of torch; None for constant learning rates.
        warmup_steps: Number of steps over which the learning rate rises linearly to its scheduled value.

    Returns:
        The scheduler to step after every step, and the `ReduceLROnPlateau` to step after every validation; None where
        there is none.

    Raises:
        ValueError: warmup_steps is negative.
    """
    natural("warmup_steps", warmup_steps)
    made = make(optimizer) if make is not None else None
    plateau = made if isinstance(made, torch.optim.lr_scheduler.ReduceLROnPlateau) else None
    scheduler = made if plateau is None else None
    return (Warmup(optimizer, warmup_steps, scheduler) if warmup_steps > 1 else scheduler), plateau


def _format_rates(values: list[float]) -> str:
    return " and ".join(dict.fromkeys(f"{value:g}" for value in values))
