"""Sandbox of a network: editions run on copies of its batch, and all other state is restored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtl_accum._state import RngState, preserved
from mtl_accum.editions import Edition, EditionLike, Tasks, Trunk, samples_of
from mtl_accum.editions._engine import Step, named_modules_of, take, walk
from mtl_accum.verify._fresh_batch import fresh_batch, inputs_with_gradients
from mtl_accum.verify._hidden_state import HiddenState

__all__ = ["Sandbox", "StepOutcome", "leaves_reached", "parameters_reached"]

_FEW = 4  # samples; more than the one that BatchNorm refuses


@dataclass(frozen=True)
class StepOutcome:
    """Results of one call of an edition.

    Attributes:
        losses: Losses by task.
        gradients: Gradients by parameter, and by input that requires one; None where there is none.
        buffers: Buffers by name.
        random: States of the random number generators.
    """

    losses: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor | None]
    buffers: Mapping[str, Tensor]
    random: RngState


class Sandbox:
    """Trunk, tasks and a batch, with which editions run without a trace.

    Args:
        trunk: Function from the batch to the representation.
        tasks: Tasks by name.
        batch: Any batch; every run gets a copy of it.
        also: Parameters that no module owns, e.g. from an optimizer or the graph of a loss.

    Attributes:
        parameters: All parameters that can be reached. Their names begin with "trunk" or with "tasks." and the task's
            name; parameters that no module owns have the name of the variable that holds them.
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
        held = HiddenState(*self._functions).tensors
        names = {id(tensor): name for name, tensor in held.items()}
        owned = {id(parameter) for parameter in self.parameters.values()}
        loose = {id(tensor): tensor for tensor in (*also, *held.values()) if id(tensor) not in owned}
        for number, (key, tensor) in enumerate(loose.items()):
            name = names.get(key) or f"optimizer.{number}"
            self.parameters[f"{name}#{number}" if name in self.parameters else name] = tensor

    def run(self, edition: EditionLike) -> StepOutcome:
        """Run an edition once, without earlier gradients, on a copy of the batch."""
        batch = fresh_batch(self.batch)
        with self.untouched():
            for parameter in self.parameters.values():
                parameter.grad = None
            losses = edition.forward_backward(self.trunk, self.tasks, batch)
            gradients = {name: parameter.grad for name, parameter in self.parameters.items()}
            gradients |= {path: leaf.grad for path, leaf in inputs_with_gradients(batch)}
            buffers = {name: b.detach().clone() for name, b in self._tensors(lambda m: m._buffers).items()}
            return StepOutcome(losses, gradients, buffers, RngState.capture())

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Restore buffers, gradients, hidden state and random numbers at the end of the block."""
        hidden = HiddenState(*self._functions)
        modules = [module for _, module in self._modules.values()]
        with preserved(modules, gradients=self.parameters.values()):
            try:
                yield
            finally:
                hidden.restore()

    @property
    def _functions(self) -> tuple[Callable[..., Any], ...]:
        return self.trunk, *self.tasks.values()

    def _tensors(self, tensors_of: Callable[[nn.Module], dict[str, Any]]) -> dict[str, Any]:
        """Return the tensors of all modules, each once, by full name."""
        tensors: dict[str, Tensor] = {}
        seen: set[int] = set()
        for path, module in reversed(self._modules.values()):
            for name, tensor in tensors_of(module).items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    full = f"{path}.{name}"
                    key = f"{full}#{len(tensors)}" if full in tensors else full  # variables may share a name
                    tensors[key] = tensor
        return tensors


def leaves_reached(trunk: Trunk, tasks: Tasks, batch: Any) -> list[Tensor]:
    """Return the leaves that the losses of a batch reach, without inputs: log-variances in a closure, for example.

    The losses' graphs are walked without a backward. Network and batch stay unchanged.
    """
    graphs = _Graphs()
    Sandbox(trunk, tasks, batch).run(graphs)
    return [leaf for key, leaf in graphs.leaves.items() if key not in graphs.inputs]


def parameters_reached(trunk: Trunk, tasks: Tasks, batch: Any) -> set[int]:
    """Return the ids of the tensors to which `SummedLoss` would give a gradient, without a backward.

    The graphs are those of a few samples, so little memory is needed for any size of the batch.
    """
    try:
        samples_of(batch, "batch")
        leaves = leaves_reached(trunk, tasks, take(batch, (0, _FEW)))
    except Exception:  # the batch cannot be cut, or a loss needs more samples
        leaves = leaves_reached(trunk, tasks, batch)
    return {id(leaf) for leaf in leaves}


class _Graphs(Edition):
    """Edition that runs the forward passes of `SummedLoss`, each head alone, and collects the leaves of the graphs."""

    def __init__(self) -> None:
        self.leaves: dict[int, Tensor] = {}
        self.inputs: set[int] = set()

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """Run the forward passes, and collect the leaves."""
        self.inputs = {id(leaf) for _, leaf in inputs_with_gradients(batch)}
        with Step(trunk, tasks, batch) as step, torch.enable_grad():
            representation = step.run_trunk() if step.present else None
            for name in step.present:
                loss = step.run_heads([name], representation, step.pieces[0])
                if loss is not None and loss.requires_grad:
                    self.leaves.update((id(leaf), leaf) for leaf in walk([loss]).leaves)
        return step.losses()
