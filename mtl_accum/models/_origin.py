"""Parts of a module that its copies still share with it: functions are not copied, nor are the modules they use."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from mtl_accum.editions import modules_of
from mtl_accum.editions._engine import tensors_of
from mtl_accum.models._shadow import unregistered

__all__ = ["Origin"]

Held = Mapping[int, tuple[weakref.ref[Any], str]]  # modules, parameters and buffers with their names, by id


class Origin:
    """Parts of a module and parameters that its functions use, for comparison with its copies; keeps nothing alive.

    Args:
        held: Parts of the module, and of the modules of which it is a copy; empty after pickling.
        outside: Names of trained parameters that each function uses and the module does not hold.
    """

    def __init__(self, held: Held, outside: Mapping[str, list[str]]) -> None:
        self._held, self._outside = held, outside

    @classmethod
    def of(cls, module: nn.Module, functions: Mapping[str, Callable[..., Any]], earlier: Origin | None) -> Origin:
        """Return the origin of a module's copies; `earlier` is the module's own origin if it is a copy itself."""
        named = (*module.named_buffers(), *module.named_parameters(), *module.named_modules())
        held = {id(part): (weakref.ref(part), name or "itself") for name, part in named}
        outside = {name: unregistered(module, [function]) for name, function in functions.items()}
        return cls(held, outside) if earlier is None else cls({**earlier._held, **held}, earlier._outside)

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        return self

    def __reduce__(self) -> tuple[type[Origin], tuple[Held, Mapping[str, list[str]]]]:
        return Origin, ({}, self._outside)

    def shared_parts(self, name: str, function: Callable[..., Any], copied: nn.Module) -> list[str]:
        """Return the names of parts that a copy's function uses and only the original holds."""
        own = {id(part) for part in (*copied.modules(), *copied.parameters(), *copied.buffers())}
        parts = [part for part in (*modules_of(function), *tensors_of(function)) if id(part) not in own]
        of_original = [(part, *self._held[id(part)]) for part in parts if id(part) in self._held]
        shared = [path for part, reference, path in of_original if reference() is part]
        newly_unregistered = Counter(unregistered(copied, [function])) - Counter(self._outside.get(name, ()))
        return shared or list(newly_unregistered)
