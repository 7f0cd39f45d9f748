"""Attributes of a task (count, reduction, ...) behind the module that a user has put around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["counted", "couples_samples", "facts", "have_counts", "obstacle_in_pieces"]

Path = tuple[str, ...]  # the names of the submodules that lead from a module to one inside of it

# By the module around tasks: the paths, which stay right if another task is put in the place.
_PATHS: WeakKeyDictionary[nn.Module, list[Path]] = WeakKeyDictionary()


def counted(task: Any) -> Any:
    """Return the object that has the `count`, `presence` and `terms` of a task.

    That is the task itself, unless it is a module without a `count` around one that has it, such as an uncertainty
    weight: `exp(-s) * task(z, batch) + s`. Around a sum, or around several tasks, no count is right for everything that
    the module adds. The `count` of the returned object then raises a ValueError with the fix, unless the module
    declares `reduction = "sum"`.
    """
    if not isinstance(task, nn.Module) or hasattr(type(task), "count"):
        return task
    inner = _inner_tasks(task)
    if not inner or _has_count(task):  # it may have been given one since
        return task
    if len(inner) > 1 or getattr(inner[0], "reduction", None) == "sum":
        return _Around(task, inner)
    return inner[0]


def have_counts(tasks: Iterable[Any]) -> bool:
    """Return whether all tasks have a `count`."""
    return all(getattr(counted(task), "count", None) is not None for task in tasks)


def couples_samples(task: Any) -> bool:
    """Return whether a task declares that its loss couples samples, or does so below a module around it."""
    if not isinstance(task, nn.Module):
        return bool(getattr(task, "couples_samples", False))
    return bool(_declared(task)) if _declared(task) is not None else any(map(_declared, task.modules()))


def obstacle_in_pieces(task: Any) -> str:
    """Return why a task, or one inside of a module, is another loss over pieces of a batch; "" without a reason."""
    return next(filter(None, (state() for state in _obstacles(task))), "")


def facts(task: Any) -> dict[str, Any]:
    """Return the attributes that a task declares, for a callable around it."""
    source = counted(task)
    declared = {name: getattr(source, name, None) for name in ("count", "presence", "terms", "absence")}
    declared |= {"reduction": getattr(task, "reduction", None), "couples_samples": couples_samples(task)}
    declared["obstacle_in_pieces"] = partial(obstacle_in_pieces, task) if any(_obstacles(task)) else None
    return {name: value for name, value in declared.items() if value is not None}


class _Around:
    """A module around several tasks, or around a sum, whose own terms are in none of the tasks' counts."""

    def __init__(self, task: nn.Module, inner: list[nn.Module]) -> None:
        self._task, self._inner = task, inner

    def presence(self, batch: Any) -> bool | None:
        """Return False where the batch has nothing for any task inside."""
        known = [getattr(task, "presence", lambda _: None)(batch) for task in self._inner]
        return known[0] if len(known) == 1 else any(present is not False for present in known)

    def absence(self, batch: Any) -> str:
        """Describe the target that a batch lacks."""
        return str(getattr(self._inner[0], "absence", lambda _: "")(batch))

    def count(self, batch: Any) -> float:
        """Return 1 for a declared sum; raise ValueError otherwise."""
        kind = type(self._task).__name__
        if getattr(self._task, "reduction", None) == "sum":
            return 1
        if len(self._inner) > 1:
            raise ValueError(
                f"{kind} holds {len(self._inner)} modules with a count each, so the batch cannot be cut for it; "
                f"define count(batch) on {kind} (the denominator of its mean), or make each one a task of its own"
            )
        raise ValueError(
            f"{kind} is around a sum (reduction='sum'), and what else it adds would come once a piece; set "
            f"reduction = 'sum' on {kind} if it is a sum over the samples as a whole, or define count(batch) if a mean"
        )


def _declared(module: nn.Module) -> Any:
    """Return a module's `couples_samples`, None where it has none: many times faster than `getattr`, which raises."""
    return vars(module).get("couples_samples", getattr(type(module), "couples_samples", None))


def _obstacles(task: Any) -> Iterator[Callable[[], str]]:
    """Yield functions that describe obstacles of a task and its submodules; of the class, as getattr is slow."""
    if not isinstance(task, nn.Module):
        yield from filter(None, [getattr(task, "obstacle_in_pieces", None)])
        return
    for part in task.modules():
        if (state := getattr(type(part), "obstacle_in_pieces", None)) is not None:
            yield partial(state, part)


def _inner_tasks(task: nn.Module) -> list[nn.Module]:
    paths = _PATHS.get(task)
    if paths is None:
        paths = _PATHS[task] = [] if _has_count(task) else _find(task)
    return [_at(task, path) for path in paths]


def _find(module: nn.Module, path: Path = ()) -> list[Path]:
    """Return the paths of the outermost submodules with a count, each submodule once."""
    paths: dict[int, Path] = {}
    for name, child in module._modules.items():
        if child is not None:
            below = [(*path, name)] if _has_count(child) else _find(child, (*path, name))
            paths.update({id(_at(module, inner[len(path) :])): inner for inner in below})
    return list(paths.values())


def _at(module: nn.Module, path: Path) -> nn.Module:
    for name in path:
        inner = module._modules[name]
        assert inner is not None
        module = inner
    return module


def _has_count(module: nn.Module) -> bool:
    return callable(getattr(module, "count", None))
