"""Which modules a callable uses: the trunk and the tasks may be plain functions."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from torch import Tensor, nn

__all__ = ["modules_of"]

_DEEPEST = 8  # references followed from the callable; what a person writes by hand is two or three away
_LONGEST = 4096  # items followed of a container: heads are fewer, data sets are more


def modules_of(function: Callable[..., Any]) -> list[nn.Module]:
    """All modules that a callable can reach, submodules included, each once.

    Followed are bound methods, partials, wrappers (`torch.compile` too), closures, defaults, the globals that
    its code names, and the attributes and items of plain objects on the way.
    """
    found: dict[int, nn.Module] = {}
    seen: dict[int, Any] = {}  # the values too: a freed temporary's id may come again
    pending: list[tuple[Any, int]] = [(function, 0)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, nn.Module):
            if id(value) not in found:
                found.update((id(module), module) for module in value.modules())
        elif depth < _DEEPEST and id(value) not in seen:
            seen[id(value)] = value
            pending += [(other, depth + 1) for other in _referred(value)]
    return list(found.values())


def _referred(value: Any) -> Iterator[Any]:
    """What a function, container or plain object refers to."""
    if isinstance(value, str | bytes | int | float | complex | type | types.ModuleType | Tensor | None):
        return
    if isinstance(value, types.FunctionType):
        yield from _referred_by_function(value)
        yield from vars(value).values()  # __wrapped__, torch.compile's original
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, Mapping):
        yield from islice(value.values(), _LONGEST)
    elif isinstance(value, list | tuple | set | frozenset):
        yield from islice(value, _LONGEST)
    else:
        yield from getattr(value, "__dict__", {}).values()
        if callable(value):
            yield type(value).__call__  # its code may name globals


def _referred_by_function(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name of the enclosing function that is not bound yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield function.__globals__[name]


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return code.co_names + tuple(name for nested in inner for name in _names(nested))
