"""Running a network for a look at it: gradients, buffers and random state are put back as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtl_accum.editions import Edition, Tasks, Trunk
from mtl_accum.editions._buffers import BufferLog
from mtl_accum.editions._modules import named_modules_of
from mtl_accum.editions._pieces import samples_of, take
from mtl_accum.editions._random import RandomState

__all__ = ["Network", "Outcome", "parameters_reached"]

_FEW = 4  # samples; more than the one that BatchNorm refuses


@dataclass(frozen=True)
class Outcome:
    """What one call of an edition leaves.

    Attributes:
        losses: by task.
        gradients: by parameter; None where it got none.
        buffers: by name.
        random: the generators' states.
    """

    losses: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]
    random: list[Tensor]


class Network:
    """A trunk, tasks and a batch, to be run without a trace.

    Args:
        trunk: maps the batch to the representation.
        tasks: by name.
        batch: any.
        also: parameters that no module owns, as an optimizer may know them.

    Attributes:
        parameters: all that can be reached, by a name that begins with "trunk" or "tasks." and the task's name.
    """

    def __init__(self, trunk: Trunk, tasks: Tasks, batch: Any, *, also: Iterable[Tensor] = ()) -> None:
        self.trunk, self.tasks, self.batch = trunk, tasks, batch
        functions: list[tuple[str, Callable[..., Any]]] = [("trunk", trunk)]
        functions += [(f"tasks.{name}", task) for name, task in tasks.items()]
        named = [
            (f"{part}.{path}" if path else part, module)
            for part, function in functions
            for path, module in named_modules_of(function)
        ]
        self._modules = {id(module): (name, module) for name, module in reversed(named)}  # the first name counts
        self.parameters = self._tensors(lambda module: module._parameters)
        owned = {id(parameter) for parameter in self.parameters.values()}
        loose = (parameter for parameter in also if id(parameter) not in owned)
        self.parameters |= {f"optimizer.{number}": parameter for number, parameter in enumerate(loose)}

    def run(self, edition: Edition) -> Outcome:
        """One call, from no gradients and the present random state."""
        before = {name: parameter.grad for name, parameter in self.parameters.items()}
        with self.untouched():
            try:
                for parameter in self.parameters.values():
                    parameter.grad = None
                losses = edition.forward_backward(self.trunk, self.tasks, self.batch)
                gradients = {name: parameter.grad for name, parameter in self.parameters.items()}
                buffers = {name: b.detach().clone() for name, b in self._tensors(lambda m: m._buffers).items()}
                return Outcome(losses, gradients, buffers, RandomState().states)
            finally:
                for name, parameter in self.parameters.items():
                    parameter.grad = before[name]

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Put the buffers and the random state back at the end."""
        random, buffers = RandomState(), BufferLog()
        buffers.before([module for _, module in self._modules.values()])
        try:
            yield
        finally:
            buffers.restore()
            random.restore()

    def _tensors(self, of: Callable[[nn.Module], dict[str, Any]]) -> dict[str, Any]:
        found: dict[str, Tensor] = {}
        seen: set[int] = set()
        for path, module in reversed(self._modules.values()):
            for name, tensor in of(module).items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    full = f"{path}.{name}"
                    found[f"{full}#{len(found)}" if full in found else full] = tensor  # variables may share a name
        return found


def parameters_reached(trunk: Trunk, tasks: Tasks, batch: Any) -> set[int]:
    """The ids of the tensors that `SummedLoss` would give a gradient to, found without a backward.

    The graphs of the losses of a few samples are walked, one head at a time: in little memory, however large
    the batch.
    """
    try:
        samples_of(batch, "batch")
        few = take(batch, (0, _FEW))
        return _walk(trunk, tasks, few)
    except Exception:  # it cannot be cut, or a loss wants more samples than a few
        return _walk(trunk, tasks, batch)


def _walk(trunk: Trunk, tasks: Tasks, batch: Any) -> set[int]:
    found: set[int] = set()
    network = Network(trunk, tasks, batch)
    with network.untouched(), torch.enable_grad():
        representation = trunk(batch)
        for task in tasks.values():
            pending, seen = [task(representation, batch).grad_fn], set()
            while pending:
                node = pending.pop()
                if node is None or node in seen:
                    continue
                seen.add(node)
                if hasattr(node, "variable"):
                    found.add(id(node.variable))
                pending += [following for following, _ in node.next_functions]
    return found
