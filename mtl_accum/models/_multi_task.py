"""A shared trunk and its tasks as modules, for those who start fresh."""

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
from mtl_accum.models._denominators import denominator
from mtl_accum.models._inputs import Inputs, Selector, _OnInputs, select
from mtl_accum.models._weight import Weight, obstacle_in_pieces, require_weight, weighted

__all__ = ["MultiTaskModel", "Selector", "Task", "module_key", "run_head", "select"]


class Task(nn.Module):
    """One task: `weight * loss(head(representation), target)`, or `weight(loss(head(representation), target))`.

    Args:
        head: maps the representation to the task's output.
        loss: maps (output, target) to a 0-dim loss: a mean over `count` terms.
        target: a key of the batch, or a callable of it. A batch without the key (or a callable that returns
            None or raises KeyError) has nothing for this task: it is absent.
        weight: factor of the loss: a number, or an `nn.Parameter` of shape (1,) (or (), which FSDP2 cannot shard); or
            a module `weight(loss) -> loss`, such as `UncertaintyWeight`. It is part of the loss that an edition returns
            and is trained with the task. In pieces of a batch a module must be affine, `a * loss + b`, and b be 0 where
            the loss is a sum; `log(loss)` is refused there, and so is what draws random numbers or changes its
            buffers. Weights that all tasks share (a softmax over them) are no task's own: weigh the losses instead.
        count: callable of the batch, the denominator of the mean: a number or a 0-dim tensor; 0 makes the task
            absent. See `count_labels`, `count_mask` and `count_present`. By default it is read only where the batch
            is cut or accumulated: for torch's cross-entropies the labels that are not ignored, with their classes'
            weights; else the number of samples (see `default_count`).
        couples_samples: the loss of a sample depends on other samples (a contrastive loss), so that it cannot
            be computed in pieces.
        reduction: "sum" for a loss that is a sum over the samples: every piece of the batch then weighs 1. By
            default what the loss states itself (`nn.MSELoss(reduction="sum")`), else "mean".

    Attributes:
        watchers: called with every output and its target, in the head's own phase: metrics without a second forward.

    Raises:
        TypeError: head or loss cannot be called, or weight is none of what it may be.
        ValueError: target can be neither a key nor called, weight is a parameter with several elements, reduction
            contradicts the loss's own, or a sum is given a count.
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
        """The weighted loss, a 0-dim tensor."""
        if not torch.compiler.is_compiling():
            note_call(self)
        output, target = self.head(representation), self.target(batch)
        for watch in self.watchers:
            watch(output, target)
        return self.weighted(self.loss(output, target))

    def weighted(self, loss: Tensor) -> Tensor:
        """Weigh the loss; for subclasses with a `forward` of their own.

        Raises:
            TypeError, ValueError: weight is a module that returned something else than a 0-dim tensor.
        """
        return weighted(self.weight, loss)

    def obstacle_in_pieces(self) -> str:
        """Say why the weight cannot be exact in pieces of a batch; "" where it can."""
        return obstacle_in_pieces(self.weight, self.reduction)

    def target(self, batch: Any) -> Any:
        """What the head's output is compared with; None where the batch has nothing for this task."""
        if not callable(self._target) and isinstance(batch, Mapping) and self._target not in batch:
            return None
        try:
            return select(self._target, batch)
        except KeyError:
            return None

    @property
    def reduction(self) -> str:
        """Whether pieces of a batch weigh their share of the terms ("mean"), or 1 ("sum")."""
        return "sum" if "sum" in (self._reduction, denominator(self.loss).reduction) else "mean"

    def presence(self, batch: Any) -> bool | None:
        """Return whether the batch has something for this task, without a count; None where the count decides."""
        return False if self.target(batch) is None else None if self._counted() else True

    def absence(self, batch: Any) -> str:
        """Return in words which target a batch is without; "" where it is there."""
        if self.target(batch) is not None:
            return ""
        return "no target: its function found none" if callable(self._target) else f"no {self._target!r}"

    def count(self, batch: Any) -> float | Tensor:
        """Return the denominator of the loss's mean; 0 if the batch has nothing for this task.

        Raises:
            ValueError: No count was given, and the denominator cannot be told from the loss or the target.
        """
        target = self.target(batch)
        if target is None:
            return 0
        if self._count is not None:
            return self._count(batch)
        known = denominator(self.loss)
        if self.reduction == "sum":
            return 1
        if known.obstacle and not self.couples_samples:
            raise ValueError(known.obstacle)
        if known.of_labels and isinstance(target, Tensor):
            return known.terms(self.loss, target)
        return default_count(target, batch)

    def terms(self, batch: Any) -> float | Tensor | None:
        """Return the number of terms that loss and target themselves tell of, to hold `count` against; None for none.

        Counts of pieces must be in the ratio of these: a masked count on a loss that is a mean over everything, or the
        number of samples where a cross-entropy inside of the loss leaves labels out, would weigh the pieces wrongly.
        """
        known, counted = denominator(self.loss), self._counted()
        if known.of_torch != counted or self.reduction == "sum":
            return None  # the count are those terms, or it is all that is known
        target = self.target(batch)
        return known.terms(self.loss, target) if isinstance(target, Tensor) and target.dim() else None

    def _counted(self) -> bool:
        """Return whether the count is the user's: given, or a subclass's own."""
        return self._count is not None or getattr(self.count, "__func__", None) is not Task.count

    def _check_reduction(self) -> None:
        own = denominator(self.loss).reduction
        if self._reduction not in (None, "mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', found {self._reduction!r}")
        if own in ("mean", "sum", "batchmean") and self._reduction not in (None, own.removeprefix("batch")):
            raise ValueError(
                f"reduction={self._reduction!r} contradicts the loss, {self.loss!r}, whose own is {own!r}; leave it out"
            )
        if self._count is not None and self.reduction == "sum":
            raise ValueError("count is the denominator of a mean, but the loss is a sum; leave count out")


class MultiTaskModel(nn.Module):
    """A trunk shared by tasks; `.trunk` and `.tasks` go straight into an edition's `forward_backward`.

    Args:
        trunk: maps what `inputs` selects to the representation.
        tasks: the tasks by name; any string is a name.
        inputs: a key of the batch, or a callable of it. A mapping of them is handed to the trunk as keywords, a tuple
            or list as positions: `{"input_ids": "tokens", "attention_mask": "mask"}`, or `("image", measure_sizes)`;
            an entry may be a mapping or tuple itself, and arrives as one. A key that is a tuple needs a callable.

    Raises:
        TypeError: trunk or tasks are no such thing, or a task is not a `Task`-like module.
        ValueError: there is no task, or inputs can be neither a key nor called, nor holds only such; or, when called,
            a key is not in the batch.
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
        """Every head's output, by the task's name."""
        representation = self.trunk(batch)
        return {name: run_head(task, representation) for name, task in self.tasks.items()}


class _Tasks(nn.Module, Mapping[str, Any]):
    """A mapping of modules with any strings as names (`nn.ModuleDict` refuses dots, "keys", "type", ...)."""

    __eq__ = object.__eq__  # Mapping compares items and so takes the hash away, which modules need
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

    FSDP2 gathers a task's parameters around its `forward`, which does not run here. With gradients this does not do so
    in its place: the backward would find the parameters gone.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # slow to import, and there if anything is sharded
    if fsdp is None or torch.is_grad_enabled() or not isinstance(task, fsdp.FSDPModule):
        return task.head(representation)
    task.unshard()
    try:
        return task.head(representation)
    finally:
        task.reshard()


def module_key(name: str) -> str:
    """Return the name of a submodule for any string, without the dots that torch reads as a path."""
    return quote(name, safe=" ").replace(".", "%2E") or "%"
