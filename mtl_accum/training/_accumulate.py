"""Classic gradient accumulation over a loader's batches, each with its share of every task's own mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtl_accum.editions import Edition
from mtl_accum.editions._counts import Share, read_counts
from mtl_accum.editions._pieces import Piece, Range, samples_of
from mtl_accum.editions._types import Tasks, Trunk
from mtl_accum.training._device import to_device

__all__ = ["forward_backward"]

_ANY = 2**40  # a size that no piece of a batch has: nobody takes its count for a piece's


def forward_backward(
    edition: Edition, trunk: Trunk, tasks: Tasks, batches: Sequence[Any], device: torch.device
) -> dict[str, Tensor]:
    """Add the gradient of the batches' summed loss as one large batch would have it, one batch at a time.

    A batch weighs `task.count(batch) / sum of the counts` in each task's mean: dividing the loss by the number of
    batches would be wrong for the short last batch of an epoch, for the short last window, and for tasks whose
    targets are spread unevenly. Layers with batch statistics see one batch at a time all the same.

    Args:
        edition: what each batch goes through.
        trunk: maps a batch to its representation.
        tasks: by name.
        batches: of the window, on any device.
        device: where each goes in its turn.

    Returns:
        The tasks' losses over the whole window; 0 for a task that is absent from all of it.
    """
    if len(batches) == 1:
        return edition.forward_backward(trunk, tasks, to_device(batches[0], device))
    sizes = [_samples(batch, tasks) for batch in batches]
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    pieces = [Piece((end - size, end), batch) for size, end, batch in zip(sizes, ends, batches, strict=True)]
    whole: Range = (0, ends[-1])
    counts = read_counts(tasks, pieces)
    losses: dict[str, Tensor] = {}
    for known in counts.values():
        known[whole] = sum(known.values())
    for samples, batch in pieces:
        assert samples is not None
        shares = {
            name: Share(task, samples, whole, counts[name]) for name, task in tasks.items() if counts[name][samples]
        }
        for name, loss in edition.forward_backward(trunk, shares, to_device(batch, device)).items():
            losses[name] = losses[name] + loss if name in losses else loss
    return {name: losses[name] if name in losses else torch.zeros((), device=device) for name in tasks}


def _samples(batch: Any, tasks: Tasks) -> int:
    """The samples of a batch, which only tasks without a count need."""
    if all(getattr(task, "count", None) is not None for task in tasks.values()):
        return _ANY
    return samples_of(batch, "batch")
