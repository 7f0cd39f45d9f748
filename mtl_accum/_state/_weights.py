"""Snapshots of parameters, gradients and optimizer state, and detection of writes to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mtl_accum._torch_pytree import tree_map

__all__ = ["GradientSnapshot", "RollbackError", "TensorSnapshot", "WeightSnapshot", "WriteDetector"]


class RollbackError(RuntimeError):
    """Tensors were written to of which there is no copy."""


class TensorSnapshot:
    """A tensor and a copy of its value on the host.

    Args:
        tensor: Any tensor.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._value = tensor, tensor.detach().to("cpu", copy=True)
        self._version = 0 if tensor.is_inference() else tensor._version

    def restore(self) -> Tensor:
        """Write the value back and return the tensor."""
        with torch.no_grad():
            return self._tensor.copy_(self._value)

    def restore_if_written(self) -> None:
        """Write the value back if autograd has counted a write to the tensor since."""
        if not self._tensor.is_inference() and self._tensor._version != self._version:
            self.restore()


class GradientSnapshot:
    """The gradients that parameters hold: the tensors, without copies.

    Args:
        parameters: Tensors whose `.grad` to note.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._gradients = [(parameter, parameter.grad) for parameter in parameters]

    def restore(self) -> None:
        """Give every parameter its gradient back."""
        for parameter, gradient in self._gradients:
            parameter.grad = gradient


class WeightSnapshot:
    """Copies on the host of all that `optimizer.step()` changes.

    Args:
        parameters: Parameters of the network.
        optimizer: Optimizer with its state and its groups; None if there is none.
    """

    def __init__(self, parameters: Iterable[Tensor], optimizer: torch.optim.Optimizer | None) -> None:
        self._parameters = [TensorSnapshot(parameter) for parameter in parameters]
        self._optimizer = optimizer
        if optimizer is not None:
            self._state = {parameter: _saved(dict(state)) for parameter, state in optimizer.state.items()}
            self._groups = [_saved(_settings(group)) for group in optimizer.param_groups]

    def restore(self) -> None:
        """Put back the same tensors with their values, and remove state that is new."""
        for parameter in self._parameters:
            parameter.restore()
        if self._optimizer is None:
            return
        self._optimizer.state.clear()
        self._optimizer.state.update((parameter, _restored(state)) for parameter, state in self._state.items())
        for group, settings in zip(self._optimizer.param_groups, self._groups, strict=True):
            group.update(_restored(settings))


class WriteDetector:
    """Detection of writes to parameters and optimizer state by autograd's version counters, without copies.

    Args:
        parameters: Parameters of the network.
        optimizer: Optimizer with its state and its groups.
    """

    def __init__(self, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
        self._parameters, self._optimizer = parameters, optimizer

    def mark(self) -> None:
        """Note versions, and values that are no tensors; it runs in every step, so it visits each tensor once."""
        state = self._optimizer.state
        self._state = dict(state)
        self._dicts = [(each, dict(each)) for each in (*state.values(), *self._optimizer.param_groups)]
        self._versions = self._read_versions()

    def restore(self) -> None:
        """Put back values that are no tensors, and remove what is new.

        Raises:
            RollbackError: A tensor was written to, or a container in the state may have been.
        """
        containers = any(isinstance(value, list | dict) for kept in self._state.values() for value in kept.values())
        if containers or self._read_versions() != self._versions:
            raise RollbackError("parameters or optimizer state were written to, and there is no copy of them")
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)
        for each, kept in self._dicts:
            each.clear()
            each.update(kept)

    def _read_versions(self) -> list[int]:
        versions = [parameter._version for parameter in self._parameters]
        versions += [value._version for _, kept in self._dicts for value in kept.values() if isinstance(value, Tensor)]
        return versions


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _saved(tree: Any) -> Any:
    return tree_map(lambda leaf: TensorSnapshot(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def _restored(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.restore() if isinstance(leaf, TensorSnapshot) else leaf, tree)
