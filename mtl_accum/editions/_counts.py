"""How many terms each task's mean has."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["read_counts"]


def read_counts(questions: Iterable[tuple[str, Any, Any]]) -> list[float | None]:
    """Ask tasks for their counts; tensors are read in one transfer a device, and that is all that waits.

    Args:
        questions: (task's name, task, batch) triples.

    Returns:
        For each triple the mean's denominator, 0 where the task is absent, None where it has no `count`.

    Raises:
        TypeError: a count is neither a number nor a tensor with one element.
        ValueError: a count is negative, infinite or NaN.
    """
    asked = list(questions)
    counts: list[Any] = [_ask(name, task, batch) for name, task, batch in asked]
    waiting: dict[torch.device, list[int]] = {}
    for index, count in enumerate(counts):
        if isinstance(count, Tensor):
            waiting.setdefault(count.device, []).append(index)
    for device, indices in waiting.items():
        exact = torch.float32 if device.type == "mps" else torch.float64  # integers up to 2**53
        together = torch.stack([counts[index].reshape(()).to(exact) for index in indices])
        for index, value in zip(indices, together.tolist(), strict=True):
            counts[index] = value
    for (name, _, _), count in zip(asked, counts, strict=True):
        if count is not None and not 0 <= count < math.inf:
            raise ValueError(f"task '{name}': count must be a finite number of at least 0, found {count}")
    return counts


def _ask(name: str, task: Any, batch: Any) -> Any:
    ask = getattr(task, "count", None)
    if ask is None:
        return None
    count = ask(batch)
    if isinstance(count, Tensor):
        if count.numel() != 1 or count.is_complex():
            raise TypeError(
                f"task '{name}': count(batch) must be one real number, found a {count.dtype} tensor of shape "
                f"{tuple(count.shape)}; sum it"
            )
        return count.detach()
    if not isinstance(count, int | float):
        raise TypeError(f"task '{name}': count(batch) must be a number or a 0-dim tensor, found {type(count).__name__}")
    return count
