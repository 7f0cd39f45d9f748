"""Real steps without a trace: parameters, gradients, optimizer, buffers, batch and random state are put back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from mtl_accum._trial import Network
from mtl_accum.memory._random import same_random_numbers
from mtl_accum.memory._training_step import TrainingStep

__all__ = ["Weights", "without_a_trace"]


@contextmanager
def without_a_trace(step: TrainingStep) -> Iterator[None]:
    """Let steps run that change everything, and put all of it back at the end.

    The copies are on the host: a GPU needs no room for them.

    Args:
        step: whose network and optimizer to put back.
    """
    gradients = [parameter.grad for parameter in step.parameters]
    weights = Weights(step.parameters, step.optimizer)
    batch = [_Kept(leaf) for leaf in tree_leaves(step.batch) if isinstance(leaf, Tensor)]
    with same_random_numbers(), Network(step.trunk, step.tasks, step.batch).untouched():
        try:
            step.zero_grad()
            yield
        finally:
            weights.restore()
            for tensor in batch:
                tensor.back_if_written()
            for parameter, gradient in zip(step.parameters, gradients, strict=True):
                parameter.grad = gradient


class Weights:
    """What `optimizer.step()` changes, as it is now; the values are kept on the host.

    Args:
        parameters: of the network.
        optimizer: with its state and its groups; None if there is none.
    """

    def __init__(self, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer | None) -> None:
        def keep(tree: Any) -> Any:
            return tree_map(lambda leaf: _Kept(leaf) if isinstance(leaf, Tensor) else leaf, tree)

        self._parameters = [_Kept(parameter) for parameter in parameters]
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


class _Kept:
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
    return tree_map(lambda leaf: leaf.back() if isinstance(leaf, _Kept) else leaf, tree)
