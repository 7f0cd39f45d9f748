"""Multi-task model: a shared trunk and its tasks as modules."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal
from urllib.parse import quote

import torch
from torch import Tensor, nn

from mtl_accum._validate import selector, selectors
from mtl_accum.editions import note_call
from mtl_accum.models._default_count import default_count
from mtl_accum.models._inputs import Inputs, Selector, _OnInputs, select
from mtl_accum.models._loss_reduction import reduction_of
from mtl_accum.models._weight import Weight, obstacle_in_pieces, require_weight, weighted

__all__ = ["MultiTaskModel", "Selector", "Task", "module_key", "run_head", "select"]


class Task(nn.Module):
    """Task: `weight * loss(head(representation), target)`, or `weight(loss(head(representation), target))`.

    Args:
        head: Function from the representation to the task's output.
        loss: Function from (output, target) to a 0-dim loss: a mean over `count` terms.
        target: Key of the batch, or callable of it. The task is absent from a batch without the key, or if the callable
            returns None or raises KeyError.
        weight: Factor of the loss: a number, an `nn.Parameter` of shape (1,) (or (), which FSDP2 cannot shard), or a
            module `weight(loss) -> loss` such as `UncertaintyWeight`. It is part of the loss that an edition returns
            and is trained with the task. In pieces of a batch a module must be affine, `a * loss + b`, with b = 0 if
            the loss is a sum. Other modules are refused there, such as `log(loss)` and modules that draw random numbers
            or change their buffers. For weights shared by all tasks, such as a softmax, weight the losses instead.
        count: Callable of the batch that returns the denominator of the mean, a number or a 0-dim tensor; 0 makes the
            task absent. See `count_labels`, `count_mask` and `count_present`. By default the count is needed only if
            the batch is cut or accumulated. It is then the labels that are not ignored, with their class weights, for
            torch's cross-entropies, and the number of samples otherwise (see `default_count`).
        couples_samples: Whether the loss of a sample depends on other samples, as in a contrastive loss. Such a loss
            cannot be computed in pieces.
        reduction: "sum" for a loss that is a sum over the samples: every piece of the batch then has weight 1. By
            default the reduction that the loss declares (`nn.MSELoss(reduction="sum")`), or else "mean".

    Attributes:
        watchers: Functions called with every output and its target during the head's forward, e.g. for metrics.

    Raises:
        TypeError: head or loss cannot be called, or weight is not a number, parameter or module.
        ValueError: target can be neither a key nor called, weight is a parameter with several elements, reduction
            contradicts the reduction of the loss, or a sum is given a count.
    """

    def __init__(
        self,
        head: Callable[[Any], Any],
        loss: Callable[[Any, Any], Tensor],
        target: Selector,
        weight: Weight = 1.0,
        count: Callable[[Any], float | Tensor] | None = None,
        *,
        couples_samples: bool = False,
        reduction: Literal["mean", "sum"] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("head", head), ("loss", loss)):
            if not callable(value):
                raise TypeError(f"{name} must be callable, found {value!r}")
        require_weight(weight)
        selector("target", target)
        self.head, self.loss, self._target, self._count = head, loss, target, count
        self.weight: Weight = weight
        self.couples_samples, self._reduction = couples_samples, reduction
        self._check_reduction()
        self.watchers: list[Callable[[Any, Any], None]] = []

    def forward(self, representation: Any, batch: Any) -> Tensor:
        """Return the weighted loss, a 0-dim tensor."""
        if not torch.compiler.is_compiling():
            note_call(self)
        output, target = self.head(representation), self.target(batch)
        for watch in self.watchers:
            watch(output, target)
        return self.weighted(self.loss(output, target))

    def weighted(self, loss: Tensor) -> Tensor:
        """Apply the weight to a loss; for subclasses with their own `forward`.

        Raises:
            TypeError, ValueError: weight is a module that did not return a 0-dim tensor.
        """
        return weighted(self.weight, loss)

    def obstacle_in_pieces(self) -> str:
        """Return why the weight is not exact in pieces of a batch; "" if it is."""
        return obstacle_in_pieces(self.weight, self.reduction)

    def target(self, batch: Any) -> Any:
        """Return the target of the task, or None if the task is absent from the batch."""
        if not callable(self._target) and isinstance(batch, Mapping) and self._target not in batch:
            return None
        try:
            return select(self._target, batch)
        except KeyError:
            return None

    @property
    def reduction(self) -> str:
        """Return "mean" if a piece of the batch is weighted by its share of the terms, "sum" if its weight is 1."""
        return "sum" if "sum" in (self._reduction, reduction_of(self.loss).reduction) else "mean"

    def presence(self, batch: Any) -> bool | None:
        """Return whether the task is present in a batch, or None if its count has to be evaluated for that."""
        if self.target(batch) is None:
            return False
        return None if self._has_own_count() else True

    def absence(self, batch: Any) -> str:
        """Describe the target that is missing from a batch; "" if it is not missing."""
        if self.target(batch) is not None:
            return ""
        if callable(self._target):
            return "no target: its function returned None or raised KeyError"
        return f"no {self._target!r}"

    def count(self, batch: Any) -> float | Tensor:
        """Return the denominator of the loss's mean; 0 if the task is absent from the batch.

        Raises:
            ValueError: No count was given, and neither the loss nor the target determines the denominator.
        """
        target = self.target(batch)
        if target is None:
            return 0
        if self._count is not None:
            return self._count(batch)
        mean = reduction_of(self.loss)
        if self.reduction == "sum":
            return 1
        if mean.obstacle and not self.couples_samples:
            raise ValueError(mean.obstacle)
        if mean.depends_on_labels and isinstance(target, Tensor):
            return mean.terms(self.loss, target)
        return default_count(target, batch)

    def terms(self, batch: Any) -> float | Tensor | None:
        """Return the number of terms by loss and target alone, for checking `count`; None if there is nothing to check.

        The counts of pieces must be proportional to these numbers. Two mistakes would weight the pieces wrongly: a
        masked count for a loss that is a mean over all entries, and the number of samples for a loss with a
        cross-entropy inside that ignores labels.
        """
        mean, own_count = reduction_of(self.loss), self._has_own_count()
        if mean.is_torch != own_count or self.reduction == "sum":
            return None  # the count consists of these terms, or nothing else is known
        target = self.target(batch)
        return mean.terms(self.loss, target) if isinstance(target, Tensor) and target.dim() else None

    def _has_own_count(self) -> bool:
        """Return whether the count is the user's, as an argument or as a method of a subclass."""
        return self._count is not None or getattr(self.count, "__func__", None) is not Task.count

    def _check_reduction(self) -> None:
        own = reduction_of(self.loss).reduction
        if self._reduction not in (None, "mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', found {self._reduction!r}")
        if own in ("mean", "sum", "batchmean") and self._reduction not in (None, own.removeprefix("batch")):
            raise ValueError(
                f"reduction={self._reduction!r} contradicts the loss, {self.loss!r}, whose own is {own!r}; leave it out"
            )
        if self._count is not None and self.reduction == "sum":
            raise ValueError("count is the denominator of a mean, but the loss is a sum; leave count out")


class MultiTaskModel(nn.Module):
    """Trunk shared by tasks; `.trunk` and `.tasks` are arguments of an edition's `forward_backward`.

    Args:
        trunk: Module from the selected inputs to the representation.
        tasks: Tasks by name; any string is a name.
        inputs: Key of the batch, or callable of it. A mapping of keys and callables is passed to the trunk as keyword
            arguments, a tuple or list as positional arguments: `{"input_ids": "tokens", "attention_mask": "mask"}`, or
            `("image", measure_sizes)`. An entry may itself be a mapping or tuple. A key that is a tuple needs a
            callable.

    Raises:
        TypeError: trunk cannot be called, tasks is not a mapping, or a task is not a module.
        ValueError: There is no task, inputs is neither a key, a callable nor a nesting of these, or, when called, a key
            is not in the batch.
    """

    def __init__(self, trunk: nn.Module, tasks: Mapping[str, nn.Module], inputs: Inputs) -> None:
        super().__init__()
        selectors("inputs", inputs)
        if not callable(trunk):
            raise TypeError(f"trunk must be a module, found {trunk!r:.200}")
        if not isinstance(tasks, Mapping):
            raise TypeError(f"tasks must be a mapping from names to tasks, found {tasks!r:.200}")
        self.trunk = _OnInputs(trunk, inputs)
        self.tasks = _Tasks(tasks)

    def forward(self, batch: Any) -> dict[str, Any]:
        """Return the output of every head by the name of its task."""
        representation = self.trunk(batch)
        return {name: run_head(task, representation) for name, task in self.tasks.items()}


class _Tasks(nn.Module, Mapping[str, Any]):
    """Mapping of modules whose names are any strings (`nn.ModuleDict` refuses dots, "keys", "type", ...)."""

    __eq__ = object.__eq__  # Mapping compares items and removes the hash, which modules need
    __hash__ = nn.Module.__hash__

    def __init__(self, tasks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if not tasks:
            raise ValueError("tasks must hold at least one task, found none")
        self._keys = {name: module_key(name) for name in tasks}
        for name, task in tasks.items():
            if not isinstance(task, nn.Module):
                raise TypeError(f"task '{name}' must be an nn.Module such as Task, found {type(task).__name__}")
            self._modules[self._keys[name]] = task

    def __getitem__(self, name: str) -> Any:
        return self._modules[self._keys[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def run_head(task: Any, representation: Any) -> Any:
    """Return a task's output without its loss.

    FSDP2 gathers the parameters of a task around its `forward`, which is not called here. Without gradients this
    function gathers them instead. With gradients it does not: the backward would need parameters that are freed again.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # slow to import, and already imported if anything is sharded
    if fsdp is None or torch.is_grad_enabled() or not isinstance(task, fsdp.FSDPModule):
        return task.head(representation)
    task.unshard()
    try:
        return task.head(representation)
    finally:
        task.reshard()


def module_key(name: str) -> str:
    """Return a valid name of a submodule for any string; dots are escaped, since torch reads them as paths."""
    return quote(name, safe=" ").replace(".", "%2E") or "%"
