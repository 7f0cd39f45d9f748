"""Checks of the trunk and the tasks on entry, in about a microsecond, with one-sentence errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn
from weakref import WeakSet

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mtl_accum.editions._engine._types import Tasks, Trunk
from mtl_accum.editions._engine._warn import warn_caller
from mtl_accum.editions._engine.ranks._agreement import is_distributed

__all__ = ["require_parts", "warn_of_ranks"]


def require_parts(trunk: Trunk, tasks: Tasks) -> None:
    """Raise unless an edition can run a trunk and tasks, as far as their types show.

    Raises:
        TypeError: The trunk or a task cannot be called, is a class, a whole model, or wrapped in
            `DistributedDataParallel`; or tasks is not a mapping.
        ValueError: There is no task.
    """
    _require_callable("trunk", trunk, "batch -> representation")
    if isinstance(trunk, nn.Module) and _is_whole(trunk):
        kind = type(trunk._modules.get("_orig_mod") or trunk).__name__
        raise TypeError(
            f"trunk must map the batch to the representation, found a whole {kind} with a trunk and tasks of its own; "
            "pass model.trunk and model.tasks (or model.forward, if that returns the representation)"
        )
    if not _seen(tasks):
        _require_tasks(tasks)
    if is_distributed() and any(map(_is_wrapped, (trunk, *tasks.values()))):
        _refuse_wrapped({"trunk": trunk, **{f"task '{name}'": task for name, task in tasks.items()}})


def _is_whole(model: nn.Module) -> bool:
    """Return whether a module holds a trunk and tasks, compiled or not."""
    inner = model._modules
    return ("trunk" in inner and "tasks" in inner) or ((own := inner.get("_orig_mod")) is not None and _is_whole(own))


def _seen(tasks: Any) -> bool:
    """Return whether these tasks, a module, passed the check before; a dict is checked again."""
    return isinstance(tasks, nn.Module) and tasks in _ORDERLY


def _require_tasks(tasks: Any) -> None:
    if not isinstance(tasks, (dict, Mapping, nn.ModuleDict)):
        raise TypeError(f"tasks must be a mapping from names to tasks, found {_kind(tasks)}; {_as_mapping(tasks)}")
    if not tasks:
        raise ValueError('tasks must hold at least one task, found none; e.g. {"depth": task}')
    for name, task in tasks.items():
        if not callable(task) or isinstance(task, type):
            _require_callable(f"task '{name}'", task, "(representation, batch) -> loss")
    if isinstance(tasks, nn.Module):
        _ORDERLY.add(tasks)


_ORDERLY: WeakSet[nn.Module] = WeakSet()


def _require_callable(name: str, part: Any, signature: str) -> None:
    if isinstance(part, type):
        raise TypeError(f"{name} must be a callable {signature}, found the class {part.__name__}; make an instance")
    if not callable(part):
        raise TypeError(f"{name} must be a callable {signature}, found {_kind(part)}")


def _as_mapping(tasks: Any) -> str:
    if isinstance(tasks, nn.Module) and "tasks" in tasks._modules:
        return "pass model.tasks"
    if isinstance(tasks, Sequence | nn.ModuleList):
        return 'give each one a name: {"depth": task, ...}'
    return 'e.g. {"depth": task}'


def _is_wrapped(part: Any) -> bool:
    """Return whether a part is wrapped in DistributedDataParallel, or holds one at its top."""
    if not isinstance(part, nn.Module):
        return False
    # Not isinstance, which takes ten times as long for an abstract class.
    return any(DistributedDataParallel in type(module).__mro__ for module in (part, *part._modules.values()))


def _refuse_wrapped(parts: Mapping[str, Any]) -> NoReturn:
    name = next(name for name, part in parts.items() if _is_wrapped(part))
    raise TypeError(
        f"{name} must be a plain module, found one wrapped in DistributedDataParallel, which hides count and "
        "couples_samples, and waits for gradients of tasks that are absent on a rank; pass the module itself "
        f"(its .module), and {_AVERAGE}"
    )


_AVERAGE = (
    "average the gradients after the call: torch.distributed.all_reduce of every parameter's .grad (zeros where it is "
    "None), divided by the number of processes"
)
_warned: set[str] = set()


def warn_of_ranks() -> None:
    """Warn once, on several processes, that gradients are those of this process."""
    ranks = torch.distributed.get_world_size() if is_distributed() else 1
    if ranks > 1 and "ranks" not in _warned:
        _warned.add("ranks")
        warn_caller(
            f"forward_backward on {ranks} processes: the gradients are this process's own, of its own batch, except "
            f"where FSDP2 or DistributedDataParallel averages in the backward; {_AVERAGE} (a mean of means: exact "
            "where the processes have equal counts)"
        )


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__
