"""The values of parameters and optimizer state, to put back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

__all__ = ["KeptTensor", "Weights"]


class Weights:
    """What `optimizer.step()` changes, as it is now; the values are kept on the host.

    Args:
        parameters: of the network.
        optimizer: with its state and its groups; None if there is none.
    """

    def __init__(self, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer | None) -> None:
        def keep(tree: Any) -> Any:
            return tree_map(lambda leaf: KeptTensor(leaf) if isinstance(leaf, Tensor) else leaf, tree)

        self._parameters = [KeptTensor(parameter) for parameter in parameters]
        self._optimizer = optimizer
        if optimizer is not None:
            self._state = {parameter: keep(dict(state)) for parameter, state in optimizer.state.items()}
            self._groups = [keep(_settings(group)) for group in optimizer.param_groups]

    def restore(self) -> None:
        """Put it back: the same tensors with their values of then, and no state that was not there."""
        for parameter in self._parameters:
            parameter.back()
        if self._optimizer is None:
            return
        self._optimizer.state.clear()
        self._optimizer.state.update((parameter, _back(state)) for parameter, state in self._state.items())
        for group, settings in zip(self._optimizer.param_groups, self._groups, strict=True):
            group.update(_back(settings))


class KeptTensor:
    """A tensor and its value."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._value = tensor, tensor.detach().to("cpu", copy=True)
        self._version = 0 if tensor.is_inference() else tensor._version

    def back(self) -> Tensor:
        with torch.no_grad():
            return self._tensor.copy_(self._value)

    def back_if_written(self) -> None:
        """Put the value back if autograd has counted a write to the tensor since."""
        if not self._tensor.is_inference() and self._tensor._version != self._version:
            self.back()


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _back(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.back() if isinstance(leaf, KeptTensor) else leaf, tree)
