"""An experiment: its network, data, optimizer, device and seed, and how a job prepares them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtl_accum._knob_rules import check_knob
from mtl_accum._optimizers import Optimizers, steppable
from mtl_accum.data import Data
from mtl_accum.editions import samples_of
from mtl_accum.models import MultiTaskModel
from mtl_accum.training.loop import resolve_device, to_device

__all__ = ["Experiment", "MakeOptimizer", "Prepared", "samples_in"]

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizers]


@dataclass(frozen=True)
class Experiment:
    """The parts of an experiment that every job needs.

    Args:
        model: Trunk and tasks, with their initial weights.
        data: Training and test batches.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: Seed of dropout and noise; the initial weights are drawn before.
        optimizer: Function that makes the optimizer of the parameters, or a list of optimizers; None for a job
            without an optimizer.

    Raises:
        ValueError: A part is missing or of the wrong kind.
    """

    model: MultiTaskModel
    data: Data
    device: str
    seed: int
    optimizer: MakeOptimizer | None = None

    def __post_init__(self) -> None:
        _require_parts(self.model, self.data)
        check_knob("device", self.device)
        check_knob("seed", self.seed)

    def prepare(self, device: torch.device | None = None) -> Prepared:
        """Seed torch, move the model to the device and make the optimizer.

        Args:
            device: Device in place of the configured one.

        Raises:
            ValueError: The device is absent, or the optimizer is not usable.
        """
        device = resolve_device(self.device) if device is None else device
        torch.manual_seed(self.seed)
        self.model.to(device)
        return Prepared(self.model, self.data, self.build_optimizer(), device)

    def build_optimizer(self) -> torch.optim.Optimizer:
        """Build the optimizer of the model's parameters; a list of optimizers becomes one.

        Raises:
            ValueError: The optimizer refuses its settings, or training cannot step it.
        """
        if not callable(self.optimizer):
            raise ValueError(
                f"optimizer must make an optimizer of parameters, found {self.optimizer!r:.200}; see _partial_"
            )
        try:
            made = self.optimizer(self.model.parameters())
        except (TypeError, ValueError) as error:
            raise ValueError(f"optimizer: {error}") from error
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError) as error:
            raise ValueError(f"optimizer: {type(error).__name__}: {error}") from error
        try:
            one = steppable(made)
        except TypeError:
            one = None
        if one is None:
            raise ValueError(f"optimizer must make an optimizer of torch or a list of them, found {made!r:.200}")
        return one


@dataclass(frozen=True)
class Prepared:
    """An experiment on its device.

    Attributes:
        model: Trunk and tasks, on the device.
        data: Training and test batches.
        optimizer: Optimizer of the model's parameters.
        device: Device of the model.
    """

    model: MultiTaskModel
    data: Data
    optimizer: torch.optim.Optimizer
    device: torch.device

    def first_batch(self) -> Any:
        """Load the first training batch, and move it to the device."""
        return to_device(next(iter(self.data.train())), self.device)


def samples_in(batch: Any) -> int | None:
    """Return the number of samples of a batch for a report; None where its tensors disagree."""
    try:
        return samples_of(batch, "batch")
    except (TypeError, ValueError):
        return None


def _require_parts(model: object, data: object) -> None:
    if model is None or data is None:
        raise ValueError("no model and data configured; add an experiment, e.g. +experiment=two_task")
    if not isinstance(model, nn.Module) or not hasattr(model, "trunk") or not hasattr(model, "tasks"):
        raise ValueError(f"model must be a MultiTaskModel, found {model!r:.200}")
    if not all(callable(getattr(data, method, None)) for method in ("train", "test")):
        raise ValueError(f"data must have train() and test(), found {data!r:.200}")
