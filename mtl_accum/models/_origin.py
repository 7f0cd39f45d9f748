"""What a copied module leaves behind: functions are not copied, and neither is what they refer to."""

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

Held = Mapping[int, tuple[weakref.ref[Any], str]]  # modules, parameters and buffers with their names


class Origin:
    """What a module that is copied holds, and what its functions use besides, for its copies; nothing is kept alive.

    Args:
        held: What it holds, and what those held that it is a copy of; nothing after pickling.
        outside: The names of the trained parameters that each function uses and the module does not hold.
    """

    def __init__(self, held: Held, outside: Mapping[str, list[str]]) -> None:
        self._held, self._outside = held, outside

    @classmethod
    def of(cls, module: nn.Module, functions: Mapping[str, Callable[..., Any]], earlier: Origin | None) -> Origin:
        """Return the origin of a module's copies, which is `earlier` too where the module is such a copy itself."""
        named = (*module.named_buffers(), *module.named_parameters(), *module.named_modules())
        held = {id(part): (weakref.ref(part), name or "itself") for name, part in named}
        outside = {who: unregistered(module, [function]) for who, function in functions.items()}
        return cls(held, outside) if earlier is None else cls({**earlier._held, **held}, earlier._outside)

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        return self

    def __reduce__(self) -> tuple[type[Origin], tuple[Held, Mapping[str, list[str]]]]:
        return Origin, ({}, self._outside)

    def left_behind(self, who: str, function: Callable[..., Any], copied: nn.Module) -> list[str]:
        """Return the names of what a copy's function uses and the copy does not hold, but the original did."""
        own = {id(part) for part in (*copied.modules(), *copied.parameters(), *copied.buffers())}
        parts = [part for part in (*modules_of(function), *tensors_of(function)) if id(part) not in own]
        known = [(part, *self._held[id(part)]) for part in parts if id(part) in self._held]
        names = [name for part, reference, name in known if reference() is part]
        more = Counter(unregistered(copied, [function])) - Counter(self._outside.get(who, ()))
        return names or list(more)
