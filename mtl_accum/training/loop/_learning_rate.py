"""The learning rate: larger for larger effective batches, warmed up, and scheduled."""

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
    """Multiply the optimizer's learning rates by what an effective batch larger than the base batch calls for.

    "linear" multiplies by their ratio (Goyal et al., 2017, Accurate, Large Minibatch SGD), "sqrt" by its root, which
    suits adaptive optimizers (Malladi et al., 2022, On the SDEs and Scaling Rules for Adaptive Gradient Algorithms).

    Args:
        optimizer: is changed.
        rule: "none", "linear" or "sqrt".
        batch_size: samples of a loader's batch; None if unknown.
        accumulate: batches of a step.
        base_batch_size: samples that the learning rate in the configuration was chosen for.

    Returns:
        A sentence for the user: the effective batch, and the learning rate with its reason.

    Raises:
        ValueError: there is no such rule, or a size is missing that it needs.
    """
    check_knob("lr_scaling", rule)
    effective = None if batch_size is None else batch_size * accumulate
    size = f"{effective} samples" if effective else "an unknown number of samples"
    how = f" ({accumulate} batches of {batch_size})" if accumulate > 1 and batch_size else ""
    before = [float(group["lr"]) for group in optimizer.param_groups]
    if rule == "none":
        return f"A step is {size}{how} at a learning rate of {_rates(before)}."
    if effective is None or base_batch_size is None:
        missing = "base_batch_size" if base_batch_size is None else "data.batch_size"
        raise ValueError(f"lr_scaling={rule}: expected {missing}, to scale by; found none")
    positive_int("base_batch_size", base_batch_size)
    factor = _RULES[rule](effective / base_batch_size)
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * factor
    after = [float(group["lr"]) for group in optimizer.param_groups]
    return (
        f"A step is {size}{how}, {effective / base_batch_size:g} times the base batch of {base_batch_size}: the "
        f"learning rate is {_rates(after)} instead of {_rates(before)} ({rule} scaling)."
    )


class Warmup:
    """Another schedule's learning rate times a factor that rises to 1, whatever that schedule does.

    Args:
        optimizer: whose learning rates.
        steps: until the factor is 1; it begins at 1 / steps.
        scheduler: the other schedule; None keeps the rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int, scheduler: LRScheduler | None) -> None:
        self._optimizer, self._steps, self._scheduler = optimizer, steps, scheduler
        self._done = 0
        self._multiply(self._factor)

    def step(self) -> None:
        """After a step of the optimizer."""
        self._multiply(1 / self._factor)  # the other schedule sees its own rate
        self._done += 1
        if self._scheduler is not None:
            self._scheduler.step()
        self._multiply(self._factor)

    def state_dict(self) -> dict[str, Any]:
        """To go on from."""
        return {"done": self._done, "scheduler": None if self._scheduler is None else self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; the optimizer has its rates of then."""
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
    """What changes the learning rate after every step, and what does so after every epoch.

    Args:
        optimizer: whose learning rates.
        make: makes a scheduler of torch; `ReduceLROnPlateau` is asked after every epoch, all others after every step.
        warmup_steps: over so many steps the learning rate rises linearly to what it would be without.

    Raises:
        ValueError: warmup_steps is negative.
    """
    natural("warmup_steps", warmup_steps)
    made = make(optimizer) if make is not None else None
    plateau = made if isinstance(made, torch.optim.lr_scheduler.ReduceLROnPlateau) else None
    scheduler = made if plateau is None else None
    return (Warmup(optimizer, warmup_steps, scheduler) if warmup_steps > 1 else scheduler), plateau


def _rates(values: list[float]) -> str:
    return " and ".join(dict.fromkeys(f"{value:g}" for value in values))
