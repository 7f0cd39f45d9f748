"""Modules that share the parameters and buffers of another module, under the same names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from mtl_accum.editions import modules_of
from mtl_accum.models._multi_task import module_key

__all__ = ["Shadow", "beside", "unregistered"]

_HOOKS = ("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")


class Shadow(nn.Module):
    """Module with the parameters, buffers and mode of an original that is not registered as a submodule.

    Both hold the same dictionaries. A parameter that is replaced (by `to`, sharding, a loaded state) is therefore
    replaced in both, and state dicts have the names of the original.

    Args:
        original: Original module.
        modules: Submodules; by default those of the original, in the same dictionary.
    """

    _original: nn.Module

    def __init__(self, original: nn.Module, modules: dict[str, nn.Module | None] | None = None) -> None:
        mode = original.training
        vars(self)["_original"] = original  # not a submodule: its name would prefix all others
        super().__init__()  # sets the mode
        original.training = mode
        vars(self)["_modules"] = original._modules if modules is None else modules
        for shared in ("_parameters", "_buffers", "_non_persistent_buffers_set", *_HOOKS):
            vars(self)[shared] = getattr(original, shared)

    @property
    def training(self) -> bool:
        """Whether the original is in training mode. A property, since trainers set this attribute without `train()`."""
        return bool(self._original.training)

    @training.setter
    def training(self, mode: bool) -> None:
        self._original.training = mode

    def _save_to_state_dict(self, *arguments: Any) -> None:
        self._original._save_to_state_dict(*arguments)  # includes its extra state

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._original._load_from_state_dict(*arguments)


def beside(model: nn.Module, trunk: Any, tasks: Mapping[str, Any]) -> nn.Module | None:
    """Return a module of all parts that a trunk and tasks hold and a model does not; None if there are none.

    Its children are `trunk` and `tasks`, and below `tasks` the tasks by name. Each module occurs once.
    """
    known = {id(module) for module in model.modules()}
    parts = {"trunk": _beside(trunk, known)}
    inner = {module_key(name): _beside(task, known) for name, task in tasks.items()}
    parts["tasks"] = _container(inner)
    return _container(parts)


def unregistered(model: nn.Module, functions: Iterable[Callable[..., Any]]) -> list[str]:
    """Return the names of trained parameters that functions use and a model does not hold, with the module types."""
    known = {id(parameter) for parameter in model.parameters()}
    return [
        f"{type(module).__name__}.{name}"
        for module in modules_of(*functions)
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.requires_grad and id(parameter) not in known
    ]


def _beside(part: Any, known: set[int]) -> nn.Module | None:
    """Return a module without its known submodules, or itself if none is known; its parts become known."""
    if not isinstance(part, nn.Module) or id(part) in known:
        return None
    if known.isdisjoint(map(id, part.modules())):
        known.update(map(id, part.modules()))
        return part
    known.add(id(part))
    inner = {name: _beside(child, known) for name, child in part._modules.items()}
    return Shadow(part, {name: child for name, child in inner.items() if child is not None})


def _container(parts: Mapping[str, nn.Module | None]) -> nn.Module | None:
    container = nn.Module()
    container._modules.update({name: part for name, part in parts.items() if part is not None})
    return container if container._modules else None
