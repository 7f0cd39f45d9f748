"""How many terms each task's mean has, on the whole batch and on its pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from mtl_accum.editions._pieces import Piece, Range
from mtl_accum.editions._types import Tasks

__all__ = ["Counts", "Share", "read_counts", "whole_task"]

Counts = dict[Range | None, float]  # by the samples that were counted; None is a batch that is not cut


class Share:
    """A task on one piece of a batch: its loss times the piece's share of the whole mean.

    Composition in place of a flag: the edition that runs the piece sees a task like any other.

    Args:
        task: the task of the whole batch.
        samples: the piece.
        whole: all samples.
        counts: of the whole batch, of this piece, and of what an inner edition will cut it into.
    """

    def __init__(self, task: Any, samples: Range, whole: Range, counts: Counts) -> None:
        self._task, self._share = task, counts[samples] / counts[whole]
        self._known: Counts = {None: counts[samples]}
        first, last = samples
        for cut, count in counts.items():
            if cut is not None and first <= cut[0] and cut[1] <= last:
                self._known[cut[0] - first, cut[1] - first] = count
        self.couples_samples = getattr(task, "couples_samples", False)
        self.count = getattr(task, "count", None)

    def __call__(self, representation: Any, batch: Any) -> Tensor:
        """The task's loss, weighted."""
        loss: Any = self._task(representation, batch)
        return loss * self._share if isinstance(loss, Tensor) else loss

    def known(self, samples: Range | None) -> float | None:
        """The count of some of the piece's samples, if it has been read already."""
        return self._known.get(samples)


def whole_task(task: Any) -> Any:
    """The task itself, behind the share of it that a piece sees: it lives on, and what is known of it with it."""
    while isinstance(task, Share):
        task = task._task
    return task


def read_counts(tasks: Tasks, pieces: Sequence[Piece]) -> dict[str, Counts]:
    """Ask tasks for their counts on pieces; tensors are read in one transfer a device, all that an edition waits for.

    Returns:
        By task and piece the mean's denominator, 0 where the task is absent. A task without a `count` counts the
        samples of a piece, and is present in a batch that is not cut.

    Raises:
        TypeError: a count is neither a number nor a tensor with one element.
        ValueError: a count is negative, infinite or NaN.
    """
    counts: dict[str, Counts] = {}
    asked: list[str] = []
    waiting: dict[torch.device, list[tuple[Counts, Range | None, Tensor]]] = {}
    for name, task in tasks.items():
        found: Counts = {}
        counts[name] = found
        ask: Any = getattr(task, "count", None)
        for piece in pieces:
            count: Any = task.known(piece.samples) if isinstance(task, Share) else None
            if count is None and ask is None:
                count = 1 if piece.samples is None else piece.samples[1] - piece.samples[0]
            elif count is None:
                asked.append(name)
                count = _checked(name, ask(piece.batch))
                if isinstance(count, Tensor):
                    waiting.setdefault(count.device, []).append((found, piece.samples, count))
            found[piece.samples] = count
    for device, group in waiting.items():
        exact = torch.float32 if device.type == "mps" else torch.float64  # integers up to 2**53
        together = torch.stack([count.reshape(()).to(exact) for _, _, count in group])
        for (found, samples, _), value in zip(group, together.tolist(), strict=True):
            found[samples] = value
    for name in asked:
        for count in counts[name].values():
            if not 0 <= count < math.inf:
                raise ValueError(f"task '{name}': count must be a finite number of at least 0, found {count}")
    return counts


def _checked(name: str, count: Any) -> Any:
    if type(count) is int:  # most are, and this runs once a head
        return count
    if isinstance(count, Tensor):
        if count.numel() != 1 or count.is_complex():
            raise TypeError(
                f"task '{name}': count(batch) must be one real number, found a {count.dtype} tensor of shape "
                f"{tuple(count.shape)}; sum it"
            )
        return count.detach()
    if not isinstance(count, Real):
        raise TypeError(f"task '{name}': count(batch) must be a number or a 0-dim tensor, found {type(count).__name__}")
    return count
