"""What every edition does the same way: run the trunk, run a task forward and backward, report the losses."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from mtl_accum.editions._buffers import BufferLog
from mtl_accum.editions._counts import read_counts
from mtl_accum.editions._pytree import leaves
from mtl_accum.editions._replay import Replay
from mtl_accum.editions._scale import scaled_one
from mtl_accum.editions._types import Tasks, Trunk

__all__ = ["Step"]


class Step:
    """One call of an edition: which tasks are present, and the two helpers that run trunk and heads.

    Leaving it with an exception gives every buffer its value of before the call.

    Attributes:
        present: the names of the tasks that have something to learn from this batch, in the tasks' order.
        replay: for editions that run the trunk more than once.
    """

    def __init__(self, trunk: Trunk, tasks: Tasks, batch: Any) -> None:
        self._trunk, self._tasks, self._batch = trunk, tasks, batch
        counts = read_counts((name, task, batch) for name, task in tasks.items())
        self.present = [name for name, count in zip(tasks, counts, strict=True) if count != 0]
        self._latest: list[str] = []
        self._losses: dict[str, Tensor] = {}
        self._buffers = BufferLog()
        self.replay = Replay(self._buffers)

    def __enter__(self) -> Step:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is not None:
            self._buffers.restore()

    def run_trunk(self) -> Any:
        """The representation of the batch."""
        torch.clear_autocast_cache()  # the weight casts of an earlier pass belong to its graph, or to none
        with self._buffers.watch(self._trunk):
            return self._trunk(self._batch)

    def run_heads(self, names: Iterable[str], representation: Any) -> Tensor | None:
        """Forward of some tasks; the sum of their losses, None for no task."""
        total: Tensor | None = None
        self._latest = list(names)
        for name in self._latest:
            loss = self._run_head(name, representation)
            # The clone: the 0-dim result of a mean can keep the storage of its element-wise map alive.
            self._losses[name] = loss.detach().clone()
            total = loss if total is None else total + loss
        return total

    def backward(self, total: Tensor | None) -> None:
        """Backward of a sum of losses, with the ambient scale; nothing to do where no gradient is required."""
        if total is not None and total.requires_grad:
            try:
                total.backward(scaled_one(total))
            except RuntimeError as error:
                raise _explained(error, self._latest) from error
        torch.clear_autocast_cache()

    def losses(self) -> dict[str, Tensor]:
        """The tasks' own losses, detached, in the tasks' order; 0 for an absent task."""
        absent = self._zero() if len(self._losses) < len(self._tasks) else None
        return {name: self._losses.get(name, absent) for name in self._tasks}  # type: ignore[misc]

    def _run_head(self, name: str, representation: Any) -> Tensor:
        task = self._tasks[name]
        try:
            with self._buffers.watch(task):
                loss = task(representation, self._batch)
        except RuntimeError as error:
            raise _explained(error, [name]) from error
        if not isinstance(loss, Tensor):
            raise TypeError(f"task '{name}': expected a 0-dim tensor as loss, found {type(loss).__name__}")
        if loss.dim() != 0:
            raise ValueError(
                f"task '{name}': expected a 0-dim loss, found one of shape {tuple(loss.shape)}; "
                "reduce it to a mean, e.g. reduction='mean'"
            )
        return loss

    def _zero(self) -> Tensor:
        for like in (*self._losses.values(), *leaves(self._batch)):
            if isinstance(like, Tensor):
                return torch.zeros((), device=like.device)
        return torch.zeros(())


def _explained(error: RuntimeError, names: list[str]) -> RuntimeError:
    """Autograd's error with the task's name and what to do about it, where we know."""
    text = str(error)
    if "leaf Variable that requires grad is being used in an in-place operation" in text:
        fix = "the head starts with an in-place operation on the representation; use its out-of-place form"
    elif "backward through the graph a second time" in text:
        fix = "a task reads what another task computed, whose graph is gone; make them one task"
    else:
        return error
    return RuntimeError(f"task {', '.join(map(repr, names))}: {fix} ({text})")
