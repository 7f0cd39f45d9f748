"""Losses and outputs of a multi-task model without gradients, from one run of the trunk and of every head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from mtl_accum.editions import SummedLoss, Tasks, Trunk
from mtl_accum.editions._engine import Piece, read_counts
from mtl_accum.editions._engine import leaves as tree_leaves
from mtl_accum.models._multi_task import run_head

__all__ = ["evaluate", "head_outputs"]


def evaluate(trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Any]:
    """Return the losses and outputs of a batch; the trunk and every head run once.

    Returns:
        Dict with "loss", NaN if all tasks are absent, "losses" by name, and "outputs" by name.
    """
    z = trunk(batch)
    counts = read_counts(tasks, [Piece(None, batch)])
    present = {name: task for name, task in tasks.items() if counts[name][None]}
    losses: dict[str, Tensor] = {}
    total = _like(z, batch, math.nan)  # 0 would look like success
    with ExitStack() as watchers:
        outputs = {name: watchers.enter_context(_outputs_of(task)) for name, task in present.items()}
        if present:
            total, losses = SummedLoss().loss(lambda _: z, present, batch)
    absent = torch.zeros_like(total)
    return {
        "loss": total,
        "losses": {name: losses.get(name, absent) for name in tasks},
        "outputs": head_outputs(tasks, z, {name: values[0] for name, values in outputs.items() if len(values) == 1}),
    }


def head_outputs(tasks: Tasks, z: Any, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the output of every task with a head; heads run only for outputs that are not known yet."""
    known = known or {}
    heads = {name: task for name, task in tasks.items() if callable(getattr(task, "head", None))}
    return {name: known[name] if name in known else run_head(task, z) for name, task in heads.items()}


@contextmanager
def _outputs_of(task: Any) -> Iterator[list[Any]]:
    """Collect the outputs of a task with watchers while it runs; a task in chunks has several outputs."""
    outputs: list[Any] = []

    def watch(output: Any, _: Any) -> None:
        outputs.append(output)

    watchers = getattr(task, "watchers", None)
    watchers = watchers if isinstance(watchers, list) else []
    watchers.append(watch)
    try:
        yield outputs
    finally:
        watchers.remove(watch)


def _like(z: Any, batch: Any, value: float) -> Tensor:
    """Return a 0-dim tensor on the device of the representation."""
    tensors = (leaf for tree in (z, batch) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    return torch.full((), value, device=next((tensor.device for tensor in tensors), None))
