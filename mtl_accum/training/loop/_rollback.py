"""The start of every step, to go back to: noted in microseconds, for it is noted far more often than it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_

import torch
from torch import Tensor, nn

from mtl_accum._state import RandomNumbers, Weights, is_constant

__all__ = ["Buffers", "RollbackError", "StepRollback", "WriteDetector"]


class RollbackError(RuntimeError):
    """What should be put back was changed, and there is no copy of it."""


class StepRollback:
    """Parameters, optimizer, buffers and random numbers as they were at a step's start.

    Args:
        model: parameters and buffers.
        optimizer: of the parameters.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._parameters, self._optimizer = list(model.parameters()), optimizer
        self._buffers, self._versions = Buffers(model), WriteDetector(self._parameters, optimizer)

    def mark(self, *, copy: bool) -> None:
        """A step begins.

        Args:
            copy: parameters and optimizer state, to the host; else a step that has written to them cannot be undone.
        """
        self._random = RandomNumbers()
        self._buffers.mark()
        self._weights: Weights | WriteDetector = self._versions
        if copy:
            self._weights = Weights(self._parameters, self._optimizer)
        else:
            self._versions.mark()

    def restore(self) -> None:
        """Go back to its start.

        Raises:
            ChangedError: something was written to of which there is no copy.
        """
        self._weights.restore()
        self._buffers.restore()
        self._random.restore()


class WriteDetector:
    """Whether parameters and optimizer state have been written to: autograd counts the writes to a tensor.

    Args:
        parameters: of the network.
        optimizer: with its state and its groups.
    """

    def __init__(self, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
        self._parameters, self._optimizer = parameters, optimizer

    def mark(self) -> None:
        """Note what there is now; every step does, so it looks at each tensor once and copies none."""
        state = self._optimizer.state
        self._state = dict(state)
        self._dicts = [(each, dict(each)) for each in (*state.values(), *self._optimizer.param_groups)]
        self._versions = self._now()

    def _now(self) -> list[int]:
        versions = [parameter._version for parameter in self._parameters]
        versions += [value._version for _, kept in self._dicts for value in kept.values() if isinstance(value, Tensor)]
        return versions

    def restore(self) -> None:
        """Put back what is no tensor, and take away what was not there.

        Raises:
            ChangedError: a tensor was written to, or a container may have been.
        """
        containers = any(isinstance(value, list | dict) for kept in self._state.values() for value in kept.values())
        if containers or self._now() != self._versions:
            raise RollbackError("parameters or optimizer state were written to, and there is no copy of them")
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)
        for each, kept in self._dicts:
            each.clear()
            each.update(kept)


class Buffers:
    """A network's buffers and their values at the last mark; the copies stay, so that a mark only fills them.

    Args:
        model: whose buffers.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [module for module in model.modules() if module._buffers]
        self._tensors: list[Tensor] = []
        self._values: list[Tensor] = []

    def mark(self) -> None:
        """Note what there is now."""
        self._slots = [
            (module._buffers, name, tensor)
            for module in self._modules
            for name, tensor in module._buffers.items()
            if not is_constant(tensor)
        ]
        tensors = [tensor for *_, tensor in self._slots if tensor is not None]
        if len(tensors) == len(self._tensors) and all(map(is_, tensors, self._tensors)):
            _copy(self._values, tensors)
        else:
            self._tensors, self._values = tensors, [tensor.detach().clone() for tensor in tensors]

    def restore(self) -> None:
        """Put the buffers of then back, with their values."""
        for owner, name, tensor in self._slots:
            owner[name] = tensor
        _copy(self._tensors, self._values)


def _copy(to: list[Tensor], values: list[Tensor]) -> None:
    if to:
        with torch.no_grad():
            torch._foreach_copy_(to, values)
