"""What a task tells of itself, through the module that a user has put around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["counted", "couples_samples", "facts", "obstacle_in_pieces"]

Path = tuple[str, ...]  # the names of the submodules that lead from a module to one inside of it

# By the module around tasks: the paths, which stay right if another task is put in the place.
_PATHS: WeakKeyDictionary[nn.Module, list[Path]] = WeakKeyDictionary()


def counted(task: Any) -> Any:
    """Return the object whose `count`, `presence` and `terms` are a task's.

    That is the task itself, unless it is a module without a `count` around one that has it, such as an uncertainty
    weight: `exp(-s) * task(z, batch) + s`. Around a sum, or around several tasks, no count can be right for all that
    the module adds, so that the returned object's `count` raises a ValueError that says what to define, unless the
    module says `reduction = "sum"` of itself.
    """
    if not isinstance(task, nn.Module) or hasattr(type(task), "count"):
        return task
    inner = _inner_tasks(task)
    if not inner or _has_count(task):  # it may have been given one since
        return task
    if len(inner) > 1 or getattr(inner[0], "reduction", None) == "sum":
        return _Around(task, inner)
    return inner[0]


def couples_samples(task: Any) -> bool:
    """Return whether a task declares that its loss couples samples, or does so below a module around it."""
    if not isinstance(task, nn.Module):
        return bool(getattr(task, "couples_samples", False))
    return bool(_declared(task)) if _declared(task) is not None else any(map(_declared, task.modules()))


def obstacle_in_pieces(task: Any) -> str:
    """Say why a task, or one below a module around it, is another loss over pieces of a batch; "" if none says so."""
    return next(filter(None, (state() for state in _obstacles(task))), "")


def facts(task: Any) -> dict[str, Any]:
    """Return what a task tells of itself by name, for the attributes of a callable around it."""
    source = counted(task)
    told = {name: getattr(source, name, None) for name in ("count", "presence", "terms", "absence")}
    told |= {"reduction": getattr(task, "reduction", None), "couples_samples": couples_samples(task)}
    told["obstacle_in_pieces"] = partial(obstacle_in_pieces, task) if any(_obstacles(task)) else None
    return {name: value for name, value in told.items() if value is not None}


class _Around:
    """A module around several tasks, or around a sum: what else it adds is in none of their counts."""

    def __init__(self, task: nn.Module, inner: list[nn.Module]) -> None:
        self._task, self._inner = task, inner

    def presence(self, batch: Any) -> bool | None:
        """Return False where the batch has nothing for any task inside."""
        known = [getattr(task, "presence", lambda _: None)(batch) for task in self._inner]
        return known[0] if len(known) == 1 else any(there is not False for there in known)

    def absence(self, batch: Any) -> str:
        """Return in words which target a batch is without."""
        return str(getattr(self._inner[0], "absence", lambda _: "")(batch))

    def count(self, batch: Any) -> float:
        """Return 1 for a sum; raise ValueError for what is not said to be one."""
        kind = type(self._task).__name__
        if getattr(self._task, "reduction", None) == "sum":
            return 1
        if len(self._inner) > 1:
            raise ValueError(
                f"{kind} holds {len(self._inner)} modules with a count each, so that the batch cannot be cut for it; "
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
    """Yield what states obstacles of a task and of those below it; of the class, for `getattr` of a module is slow."""
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
    found: dict[int, Path] = {}
    for name, child in module._modules.items():
        if child is not None:
            below = [(*path, name)] if _has_count(child) else _find(child, (*path, name))
            found.update({id(_at(module, inner[len(path) :])): inner for inner in below})
    return list(found.values())


def _at(module: nn.Module, path: Path) -> nn.Module:
    for name in path:
        inner = module._modules[name]
        assert inner is not None
        module = inner
    return module


def _has_count(module: nn.Module) -> bool:
    return callable(getattr(module, "count", None))
