"""Requirements of a training run: every task's target in the data, and a gradient for every parameter."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from mtl_accum.editions._engine import Piece, read_counts
from mtl_accum.models import MultiTaskModel
from mtl_accum.verify import parameters_reached

__all__ = ["require_gradients", "require_targets"]


def require_gradients(model: MultiTaskModel, batch: Any) -> None:
    """Raise if the first step missed a parameter: a detached trunk would train in silence and never learn.

    Raises:
        RuntimeError: A parameter without a gradient gets one from `SummedLoss`.

    Warns:
        UserWarning: No task's loss depends on a parameter.
    """
    counts = read_counts(model.tasks, [Piece(None, batch)])
    present = {name: task for name, task in model.tasks.items() if counts[name][None]}
    if not present:
        return
    absent = [task for name, task in model.tasks.items() if name not in present]
    exempt = {id(parameter) for task in absent for parameter in task.parameters()}
    missing = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None and id(parameter) not in exempt
    }
    if not missing:
        return
    reached = parameters_reached(model.trunk, present, batch)
    lost = [name for name, parameter in missing.items() if id(parameter) in reached]
    if lost:
        raise RuntimeError(f"no gradient for {', '.join(lost)}, which SummedLoss gives one: the edition is not exact")
    warnings.warn(f"no task's loss depends on {', '.join(missing)}: no gradient, they are not trained", stacklevel=3)


def require_targets(model: MultiTaskModel, batches: Iterable[Any]) -> None:
    """Raise ValueError unless every task's target is in some batch; reads as few batches as possible."""
    if iter(batches) is batches:
        raise ValueError(
            "data: expected batches that can be iterated every epoch, found an iterator; use a list or a DataLoader"
        )
    missing, keys = set(model.tasks), "nothing"
    for batch in batches:
        missing -= {name for name in missing if _has_target(model.tasks[name], batch)}
        if not missing:
            return
        keys = ", ".join(map(str, batch)) if isinstance(batch, dict) else type(batch).__name__
    raise ValueError(
        f"task '{min(missing)}': expected its target in the data, found batches of {keys}; "
        f"set model.tasks.{min(missing)}.target to one of them"
    )


def _has_target(task: Any, batch: Any) -> bool:
    return not hasattr(task, "target") or task.target(batch) is not None
