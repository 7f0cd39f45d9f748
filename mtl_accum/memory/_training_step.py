"""Training step for measurement and prediction: an edition, the optimizer and zero_grad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mtl_accum._optimizers import Optimizers, joined
from mtl_accum._torch_pytree import tree_leaves
from mtl_accum.editions import EditionLike, Tasks, Trunk, modules_of, phase
from mtl_accum.editions._engine import is_compiled
from mtl_accum.memory._tensors import TensorMeter

__all__ = ["Build", "Parts", "TrainingStep"]

Parts = tuple[Trunk, Tasks, Any, Optimizers]
Build = Callable[[], Parts]


class TrainingStep:
    """Repeatable training step of one edition on one network and one batch.

    Args:
        trunk: Function from the batch to the representation.
        tasks: Functions by name, from the representation and the batch to a 0-dim loss.
        batch: Batch on the device of the trunk.
        optimizer: Optimizer, or list of several, whose steps are part of the training step; None leaves them out.
        edition: Edition that computes the gradient.

    Attributes:
        modules: Modules of trunk and tasks.
        parameters: Parameters of the modules, followed by other parameters of the optimizer.
        device: Device of the parameters.
    """

    def __init__(
        self,
        trunk: Trunk,
        tasks: Tasks,
        batch: Any,
        optimizer: Optimizers,
        edition: EditionLike,
    ) -> None:
        self.trunk, self.tasks, self.batch = trunk, tasks, batch
        self.optimizer, self.edition = joined(optimizer), edition
        self.modules = modules_of(trunk, *tasks.values())
        owned = [parameter for module in self.modules for parameter in module.parameters(recurse=False)]
        unique = {id(parameter): parameter for parameter in (*owned, *_of_optimizer(self.optimizer))}
        self.parameters: list[Tensor] = list(unique.values())
        tensors = [*self.parameters, *(t for t in tree_leaves(batch) if isinstance(t, Tensor))]
        self.device = tensors[0].device if tensors else torch.device("cpu")

    @property
    def buffers(self) -> list[Tensor]:
        """Current buffers of the modules. They are not stored: that would keep replaced buffers alive."""
        return [buffer for module in self.modules for buffer in module.buffers(recurse=False)]

    @property
    def parts(self) -> Parts:
        """Trunk, tasks, batch and optimizer."""
        return self.trunk, self.tasks, self.batch, self.optimizer

    def __call__(self) -> None:
        """Run the step; gradients are freed at its end."""
        self.edition.forward_backward(self.trunk, self.tasks, self.batch)
        if self.optimizer is not None:
            with phase("optimizer", "optimizer"):
                self.optimizer.step()
        with phase("zero_grad", "zero_grad"):
            self.zero_grad()

    def compiled(self) -> bool:
        """Return whether parts of the network were compiled by `torch.compile`."""
        functions: tuple[Callable[..., Any], ...] = (self.trunk, *self.tasks.values())
        return any(hasattr(module, "_orig_mod") for module in self.modules) or any(map(is_compiled, functions))

    def zero_grad(self) -> None:
        """Free every gradient."""
        for parameter in self.parameters:
            parameter.grad = None

    def tensor_meter(self, *, round_to: int = 1, trace: bool = False) -> TensorMeter:
        """Return a meter with the tensors that are live before the step.

        Args:
            round_to: Bytes that every storage is rounded up to a multiple of.
            trace: Whether to keep every event.
        """
        return TensorMeter(
            self.device,
            parameters=self.parameters,
            buffers=self.buffers,
            optimizer=self.optimizer,
            inputs=self.batch,
            round_to=round_to,
            trace=trace,
        )


def _of_optimizer(optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    groups = [] if optimizer is None else optimizer.param_groups
    return [parameter for group in groups for parameter in group["params"]]
