"""Counts: the number of terms of each task's mean, on the whole batch and on its pieces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from mtl_accum.editions._engine._types import Tasks
from mtl_accum.editions._engine.batch._inner_task import counted
from mtl_accum.editions._engine.batch._pieces import Piece, Range
from mtl_accum.editions._engine.batch._weighted_task import Counts, WeightedTask, reduction_of, whole_task

__all__ = ["read_counts", "require_sums"]


def read_counts(tasks: Tasks, pieces: Sequence[Piece]) -> dict[str, Counts]:
    """Evaluate every task's `count` on each piece of the batch.

    Tensors are copied to the host in one transfer per device: the only synchronisation that an edition causes. On a
    batch that is not cut, a task whose `presence` is True counts 1, and nothing is read.

    Returns:
        By task and slice the mean's denominator, 0 where the task is absent. A task without a `count` counts the
        samples of a piece, and is present in a batch that is not cut.

    Raises:
        TypeError: A count is neither a number nor a tensor with one element.
        ValueError: A count is negative, infinite, NaN or unknown, or contradicts the terms of the loss's mean.
    """
    counts: dict[str, Counts] = {name: {} for name in tasks}
    terms: dict[str, Counts] = {}
    transfer = _Transfer()
    cut = [piece for piece in pieces if piece.samples is not None]
    for name, task in tasks.items():
        for piece in pieces:
            transfer.put(counts[name], piece.samples, _count(name, task, piece))
        if cut and not isinstance(task, WeightedTask) and (own := getattr(counted(task), "terms", None)) is not None:
            terms[name] = {}
            for piece in cut:
                transfer.put(terms[name], piece.samples, own(piece.batch))
    transfer.run()
    for name in tasks:
        for count in counts[name].values():
            if not 0 <= count < math.inf:
                raise ValueError(f"task '{name}': count must be a finite number of at least 0, found {count}")
        if name in terms:
            _reconcile(name, counts[name], terms[name])
    return counts


def require_sums(tasks: Tasks, counts: dict[str, Counts], whole: Range, pieces: Sequence[Piece]) -> None:
    """Raise ValueError unless the counts of the pieces add up to the count of the whole batch.

    Counts of at most 1 may exceed it: a masked mean over `mask.sum().clamp(min=1)` counts 1 in a piece without terms,
    where its loss is 0. What a module around the task adds is not 0, so there they may not.
    """
    for name, known in counts.items():
        if reduction_of(tasks[name]) == "sum" or not known[whole]:
            continue
        parts = [known[piece.samples] for piece in pieces]
        task = whole_task(tasks[name])
        around = counted(task) is not task
        total, large = sum(parts), sum(part for part in parts if part > 1 or around)
        slack = _ROUNDING * known[whole]
        if total < known[whole] - slack or large > known[whole] + slack:
            raise ValueError(
                f"task '{name}': the counts of the pieces must add up to that of the batch, {known[whole]:g}; found "
                f"{' + '.join(f'{part:g}' for part in parts[:8])}{' + ...' * (len(parts) > 8)} = {total:g}. Compute "
                "count, and target, from the batch that they are given"
                + ", and leave out clamp(min=1): what the module around the task adds would come too often"
                * around
            )


_ROUNDING = 1e-6  # relative; sums of weights in float32 differ by as much


def _count(name: str, task: Any, piece: Piece) -> Any:
    """Evaluate the count of a task on a piece: a number, or a tensor that is still on its device."""
    if isinstance(task, WeightedTask) and (known := task.known_count(piece.samples)) is not None:
        return known
    task = counted(task)
    presence: Any = getattr(task, "presence", None)
    if piece.samples is None and presence is not None and (is_present := presence(piece.batch)) is not None:
        return int(is_present)
    count: Any = getattr(task, "count", None)
    if count is None:
        return 1 if piece.samples is None else piece.samples[1] - piece.samples[0]
    try:
        return _checked(name, count(piece.batch))
    except ValueError as error:
        raise ValueError(f"task '{name}': {error}") from error


class _Transfer:
    """Copy of tensors of counts to the host, all of one device together; plain numbers need none."""

    def __init__(self) -> None:
        self._waiting: dict[torch.device, list[tuple[Counts, Range | None, Tensor]]] = {}

    def put(self, place: Counts, key: Range | None, value: Any) -> None:
        if isinstance(value, Tensor):
            self._waiting.setdefault(value.device, []).append((place, key, value.detach()))
        place[key] = value

    def run(self) -> None:
        for device, group in self._waiting.items():
            exact = torch.float32 if device.type == "mps" else torch.float64  # integers up to 2**53
            together = torch.stack([value.reshape(()).to(exact) for _, _, value in group])
            for (place, key, _), number in zip(group, together.tolist(), strict=True):
                place[key] = number


def _reconcile(name: str, counts: Counts, terms: Mapping[Range | None, Any]) -> None:
    """Compare counts with the terms of the loss's own mean, and raise ValueError where the shares of pieces differ.

    A count of at most 1 becomes 0 where the loss has no terms, as in `(labels != -100).sum().clamp(min=1)`.
    """
    if any(value is None for value in terms.values()):
        return
    counts.update({samples: 0 for samples, own in terms.items() if not own and counts[samples] <= 1})
    whole = max(counts, key=lambda samples: counts[samples])
    for samples, own in terms.items():
        mine, its = counts[samples] * terms[whole], own * counts[whole]
        if mine and abs(mine - its) > _ROUNDING * max(mine, its):
            raise ValueError(
                f"task '{name}': count gives samples {samples} {counts[samples]:g} of {counts[whole]:g} terms, but "
                f"the loss's mean has {own:g} of {terms[whole]:g} there (labels that it leaves out, classes that it "
                "weighs, or a mean over all entries); leave count out for one of torch's losses, else give that "
                "denominator, e.g. count=count_labels(target, ignore_index=-100)"
            )


def _checked(name: str, count: Any) -> Any:
    if type(count) is int:  # most are, and this runs once a head
        return count
    if isinstance(count, Tensor):
        if count.numel() != 1 or count.is_complex():
            raise TypeError(
                f"task '{name}': count(batch) must be one real number, found a {count.dtype} tensor of shape "
                f"{tuple(count.shape)}; sum it"
            )
        return count
    if not isinstance(count, Real):
        raise TypeError(f"task '{name}': count(batch) must be a number or a 0-dim tensor, found {type(count).__name__}")
    return count
