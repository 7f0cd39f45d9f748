"""Hidden state of a network: values in attributes, closures and containers, outside parameters and buffers."""

from __future__ import annotations

import functools
import random
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HiddenState"]

_MOST_REFERENCES = 8  # followed in a row from a callable
_MOST_ITEMS = 4096  # of a container that may be state; longer ones are data sets
_MOST_VALUES = 20_000  # visited
_MOST_ELEMENTS = 2**24  # of a tensor that is copied
_ATOMS = (str, bytes, int, float, complex, type, types.ModuleType, types.BuiltinFunctionType, type(None))
_CONTAINERS = (
    dict,
    OrderedDict,
    defaultdict,
    Counter,
    list,
    set,
    deque,
)  # exactly: a subclass may do more
_REGISTRIES = frozenset(vars(nn.Module())) - {"_buffers", "training"}  # parameters, submodules, hooks


class HiddenState:
    """Snapshot of the attributes, closures and containers behind some callables.

    Values are kept by reference, and tensors in them by value. `restore` therefore undoes an assigned attribute, a
    counter, an item added to a list or a dict, a write to a tensor, and draws from a generator that the network owns.

    Objects of PyTorch, of this package and of Python (loggers, threads, compiled code) are left out, as are containers
    with thousands of items, and tensors of more than 64 MiB in float32.

    Args:
        functions: Trunk and tasks.

    Attributes:
        tensors: Leaves that require a gradient and that no module owns, by the name of the variable that holds them.
    """

    def __init__(self, *functions: Callable[..., Any]) -> None:
        self._restore: list[Callable[[], object]] = []
        self.tensors: dict[str, Tensor] = {}
        self._seen: dict[int, Any] = {}  # holds the values: the id of a freed temporary could be reused
        pending = [("", function, 0) for function in functions]
        while pending and len(self._seen) < _MOST_VALUES:
            name, value, depth = pending.pop()
            if id(value) in self._seen or depth > _MOST_REFERENCES or isinstance(value, _ATOMS):
                continue
            self._seen[id(value)] = value
            pending += [(inner, other, depth + 1) for inner, other in self._visit(name, value)]

    def restore(self) -> None:
        """Restore all values."""
        for restore in self._restore:
            restore()

    def _visit(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Save one value, and yield the values that it refers to."""
        if isinstance(value, Tensor):
            self._save_tensor(name, value)
        elif isinstance(value, nn.Module):
            yield from self._visit_module(value)
        elif isinstance(value, types.FunctionType):
            yield from self._visit_function(value)
        elif isinstance(value, torch.Generator):
            self._restore.append(functools.partial(value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            self._restore.append(functools.partial(value.setstate, value.getstate()))
        elif hasattr(value, "bit_generator"):  # numpy's Generator; numpy may not be imported
            self._restore.append(functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state))
        elif isinstance(value, types.MethodType):
            yield from ((name, value.__self__), (name, value.__func__))
        elif isinstance(value, functools.partial):
            yield from ((name, other) for other in (value.func, *value.args, *value.keywords.values()))
        elif type(value) in _CONTAINERS:
            yield from self._visit_container(name, value)
        elif isinstance(value, tuple | frozenset):
            yield from ((name, other) for other in value)
        elif not _is_of_a_library(type(value)):
            yield from self._visit_container(name, getattr(value, "__dict__", {}))
            if callable(value):
                yield name, type(value).__call__

    def _visit_module(self, module: nn.Module) -> Iterator[tuple[str, Any]]:
        yield from module._modules.items()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            yield from (("", hook) for hook in hooks.values())
        if type(module).__module__.startswith("torch._dynamo"):
            return  # its attributes belong to the compiler
        self._restore += [_items(module._buffers), _items(vars(module))]
        yield from ((name, value) for name, value in vars(module).items() if name not in _REGISTRIES)
        if not type(module).__module__.startswith("torch.nn"):
            yield "", type(module).forward  # its code may name globals

    def _visit_function(self, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # a name of the enclosing function that is not bound yet
                continue
            self._restore.append(functools.partial(setattr, cell, "cell_contents", value))
            yield name, value
        if _is_of_a_library(function) or "site-packages" in function.__code__.co_filename:
            return
        yield from (("", value) for value in function.__defaults__ or ())
        yield from vars(function).items()
        for name in _names(function.__code__):
            if name in function.__globals__:
                value = function.__globals__[name]
                if not isinstance(value, types.ModuleType | type):
                    self._restore.append(functools.partial(function.__globals__.__setitem__, name, value))
                yield name, value

    def _visit_container(self, name: str, container: Any) -> Iterator[tuple[str, Any]]:
        if len(container) > _MOST_ITEMS:
            return
        self._restore.append(_items(container))
        if isinstance(container, dict):
            yield from ((str(key), value) for key, value in container.items())
        else:
            yield from ((name, value) for value in container)

    def _save_tensor(self, name: str, tensor: Tensor) -> None:
        if tensor.requires_grad:
            if tensor.is_leaf:
                self.tensors[f"{name}#{len(self.tensors)}" if name in self.tensors else name] = tensor
        elif tensor.layout == torch.strided and not tensor.is_inference() and tensor.numel() <= _MOST_ELEMENTS:
            self._restore.append(_value(tensor))


def _value(tensor: Tensor) -> Callable[[], None]:
    """Copy the value of a tensor, and return a function that restores it."""
    value, version = tensor.detach().clone(), tensor._version

    def restore() -> None:
        if tensor._version != version:
            with torch.no_grad():
                tensor.detach().copy_(value)

    return restore


def _items(container: Any) -> Callable[[], None]:
    """Save the items of a container, and return a function that restores them."""
    saved = list(container.items()) if isinstance(container, dict) else list(container)

    def restore() -> None:
        if len(saved) == len(container):
            if isinstance(container, dict):
                same = all(container.get(key, saved) is value for key, value in saved)
            else:
                same = all(old is new for old, new in zip(saved, container, strict=False))
            if same:
                return
        container.clear()
        if isinstance(container, dict | set):
            container.update(saved)
        else:
            container.extend(saved)

    return restore


def _is_of_a_library(definition: Any) -> bool:
    """Return whether a class or a function belongs to PyTorch, Python or this package, and so holds no hidden state."""
    package = str(getattr(definition, "__module__", "")).partition(".")[0]
    return package in ("torch", "mtl_accum") or (package in sys.stdlib_module_names and package != "__main__")


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """Return the global and attribute names in code and its nested functions."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return code.co_names + tuple(name for nested in inner for name in _names(nested))
