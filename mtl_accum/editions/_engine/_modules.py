"""The modules behind a callable: the trunk and the tasks may be plain functions."""

from __future__ import annotations

import dis
import functools
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

from torch import Tensor, nn

__all__ = ["buffer_owners", "is_compiled", "modules_of", "named_modules_of", "share_modules", "tensors_of"]

_DEEPEST = 8  # references followed from the callable; code written by hand needs two or three
_LONGEST = 4096  # items followed of a container: more than there are heads, fewer than a data set has samples
_MOST = 20_000  # values visited in all
_INTERNALS = frozenset(vars(nn.Module()))  # parameters, buffers, submodules, hooks
_LOADS = frozenset(
    {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
)  # operations that look a name up in the globals
_ATOMS = (str, bytes, int, float, complex, type, types.ModuleType, types.BuiltinFunctionType, type(None))

# By the id of a callable: a weak reference to it, and to the modules behind it that have buffers.
_OWNERS: dict[int, tuple[weakref.ref[Any], list[weakref.ref[nn.Module]]]] = {}

Named = tuple[str, Any]  # an attribute, a variable or a key, and what it refers to


def modules_of(*functions: Callable[..., Any]) -> list[nn.Module]:
    """Return all modules that some callables can reach, submodules included, each once.

    Followed are bound methods, partials, wrappers (`torch.compile` too), closures, defaults, the globals that
    its code names, and the attributes and items of plain objects on the way.
    """
    roots = (root for function in functions for _, root in _roots(function))
    return list({id(module): module for root in roots for module in root.modules()}.values())


def tensors_of(*functions: Callable[..., Any]) -> list[Tensor]:
    """Return the tensors that some callables reach outside of modules, such as a parameter in a closure."""
    tensors: list[Tensor] = []
    for function in functions:
        _roots(function, tensors)
    return tensors


def share_modules(functions: Iterable[Callable[..., Any]], others: Iterable[Callable[..., Any]]) -> bool:
    """Return whether two groups of callables reach a common module, as a copy does that shares a closure's modules."""
    return not {id(module) for module in modules_of(*functions)}.isdisjoint(map(id, modules_of(*others)))


def buffer_owners(function: Callable[..., Any]) -> list[nn.Module]:
    """Return the modules of a callable that have buffers, as they were at the first call for it.

    Used to restore buffers after an exception: a search in every step would cost more than a small head. A replay,
    whose result depends on the modules, searches again with `modules_of` every time.
    """
    key = id(function)
    known = _OWNERS.get(key)
    if known is None or known[0]() is not function:
        owners = [module for module in modules_of(function) if module._buffers]
        try:
            forget = weakref.ref(function, lambda _: _OWNERS.pop(key, None))
        except TypeError:  # no weak references
            return owners
        known = _OWNERS[key] = forget, [weakref.ref(owner) for owner in owners]
    return [owner for reference in known[1] if (owner := reference()) is not None] if known[1] else []


def named_modules_of(function: Callable[..., Any]) -> list[tuple[str, nn.Module]]:
    """Return the modules of a callable with dotted paths from the variable that holds the outermost module."""
    named: dict[int, tuple[str, nn.Module]] = {}
    for name, root in _roots(function):
        for path, module in root.named_modules(prefix=name):
            named.setdefault(id(module), (path, module))
    return list(named.values())


def is_compiled(function: Callable[..., Any]) -> bool:
    """Return whether a function was made by `torch.compile` (a compiled module is a module like any other)."""
    return hasattr(function, "_torchdynamo_orig_callable")


def _roots(function: Callable[..., Any], tensors: list[Tensor] | None = None) -> list[tuple[str, nn.Module]]:
    """Return the outermost modules, with the name that leads to each; a callable itself has none.

    The state that torch.distributed keeps in a module is not followed: that of `fully_shard` refers to all modules.
    """
    roots: list[tuple[str, nn.Module]] = []
    atoms = (*_ATOMS, Tensor) if tensors is None else _ATOMS
    seen: dict[int, Any] = {}  # the values too: a freed temporary's id may come again
    pending: list[tuple[str, Any, int]] = [("", function, 0)]
    while pending and len(seen) < _MOST:
        name, value, depth = pending.pop()
        if id(value) in seen or depth > _DEEPEST or isinstance(value, atoms):
            continue
        seen[id(value)] = value
        if tensors is not None and isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, nn.Module):
            roots.append((name, value))
            pending += [(inner, other, depth + 1) for part in value.modules() for inner, other in _attributes(part)]
        elif not type(value).__module__.startswith("torch.distributed."):
            pending += [(inner, other, depth + 1) for inner, other in _referred(value)]
    return roots


def _attributes(module: nn.Module) -> list[Named]:
    """Return a module's other attributes than parameters, buffers and submodules: functions, lists of modules."""
    return [
        (name, value)
        for name, value in vars(module).items()
        if not isinstance(value, _ATOMS) and name not in _INTERNALS
    ]


def _referred(value: Any) -> Iterator[Named]:
    """Yield what a function, container or plain object refers to."""
    if isinstance(value, types.FunctionType):
        yield from _referred_by_function(value)
        yield from vars(value).items()  # __wrapped__, torch.compile's original
    elif isinstance(value, types.MethodType):
        yield from (("", value.__self__), ("", value.__func__))
    elif isinstance(value, functools.partial):
        yield from (("", other) for other in (value.func, *value.args))
        yield from value.keywords.items()
    elif isinstance(value, dict):
        yield from ((str(key), other) for key, other in islice(value.items(), _LONGEST))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((str(index), other) for index, other in enumerate(islice(value, _LONGEST)))
    else:
        yield from getattr(value, "__dict__", {}).items()
        if callable(value):
            yield "", type(value).__call__  # its code may name globals


def _referred_by_function(function: types.FunctionType) -> Iterator[Named]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a name of the enclosing function that is not bound yet
            continue
    yield from (("", value) for value in function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield name, function.__globals__[name]


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """Return the globals that code names: not attributes, one of which may be called like a global of the script."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    mine = (step.argval for step in dis.get_instructions(code) if step.opname in _LOADS)
    return tuple(dict.fromkeys(chain(mine, (name for nested in inner for name in _names(nested)))))
