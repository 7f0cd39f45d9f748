"""Joint optimizers: several optimizers with the interface of one, such as Muon for matrices and AdamW for the rest."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["JointOptimizer", "Optimizers", "joined", "steppable"]

Optimizers = Optimizer | Sequence[Optimizer] | None


def joined(optimizer: Any) -> Optimizer | None:
    """Turn the argument `optimizer=` into one optimizer.

    Args:
        optimizer: An optimizer, a list or tuple of them, or None.

    Returns:
        The optimizer itself, a `JointOptimizer` of several, or None.

    Raises:
        TypeError: The argument is neither an optimizer, nor a list of them, nor None.
        ValueError: One optimizer is in the list twice.
    """
    if optimizer is None or isinstance(optimizer, Optimizer):
        return optimizer
    several = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    for each in several:
        if not isinstance(each, Optimizer):
            place = "" if each is optimizer else " in a list"
            raise TypeError(
                f"optimizer must be an optimizer of torch, a list of them, or None; found {type(each).__name__}{place}"
            )
    if len({id(each) for each in several}) < len(several):
        raise ValueError("optimizer: expected different optimizers in the list, found one of them twice")
    if len(several) < 2:
        return several[0] if several else None
    return JointOptimizer(several)


def steppable(optimizer: Any) -> Optimizer | None:
    """Turn the argument `optimizer=` into one optimizer whose `step()` needs no closure.

    Args:
        optimizer: An optimizer, a list or tuple of them, or None.

    Returns:
        The optimizer itself, a `JointOptimizer` of several, or None.

    Raises:
        TypeError: The argument is neither an optimizer, nor a list of them, nor None.
        ValueError: An optimizer's step needs a closure, as LBFGS's does; or an optimizer is in the list twice.
    """
    joint = joined(optimizer)
    if joint is None:
        return None
    for each in joint.optimizers if isinstance(joint, JointOptimizer) else [joint]:
        if _needs_closure(each):
            raise ValueError(
                f"optimizer: {type(each).__name__} needs a closure, to compute losses and gradients again several "
                "times a step, which an edition does once; use an optimizer whose step() needs none, such as AdamW"
            )
    return joint


class JointOptimizer(Optimizer):
    """Several optimizers with the interface of one; they step in their order.

    Parameter groups and state are the optimizers' own, so learning rate schedulers, gradient scalers and checkpoints
    work as with a single optimizer.

    Args:
        optimizers: Optimizers of different parameters.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = list(optimizers)
        self.__setstate__({})

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizers": self.optimizers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the attributes besides groups and state, such as hooks."""
        super().__setstate__({"defaults": {}, **state})

    def __repr__(self) -> str:
        return f"JointOptimizer({self.optimizers!r})"

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Groups of all optimizers, in order: the same dictionaries."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def state(self) -> _JointState:  # type: ignore[override]
        """State of all optimizers, by parameter."""
        return _JointState(self.optimizers)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step with every optimizer.

        Args:
            closure: Function that computes the loss again and returns it; called once, before the first step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the gradients of all optimizers to None, or to zero."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raise ValueError: a group must be added to one of the optimizers."""
        raise ValueError("add_param_group: add the group to one of the optimizers instead")

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all optimizers, with parameters numbered through all groups as in a single optimizer."""
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        for optimizer, first in zip(self.optimizers, self._first_numbers(), strict=True):
            saved = optimizer.state_dict()
            state |= {first + number: value for number, value in saved["state"].items()}
            groups += [_renumbered(group, first) for group in saved["param_groups"]]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load into each optimizer its part of what `state_dict` returned.

        Args:
            state_dict: State of the same optimizers.

        Raises:
            ValueError: The number of groups is not that of these optimizers.
        """
        groups = list(state_dict["param_groups"])
        if len(groups) != len(self.param_groups):
            raise ValueError(f"state_dict: expected {len(self.param_groups)} parameter groups, found {len(groups)}")
        for optimizer, first in zip(self.optimizers, self._first_numbers(), strict=True):
            own, groups = groups[: len(optimizer.param_groups)], groups[len(optimizer.param_groups) :]
            numbers = {number for group in own for number in group["params"]}
            state = {number - first: value for number, value in state_dict["state"].items() if number in numbers}
            optimizer.load_state_dict({"state": state, "param_groups": [_renumbered(group, -first) for group in own]})

    def _first_numbers(self) -> Iterator[int]:
        """Yield the number of each optimizer's first parameter."""
        first = 0
        for optimizer in self.optimizers:
            yield first
            first += sum(len(group["params"]) for group in optimizer.param_groups)


class _JointState(MutableMapping[Tensor, Any]):
    """States of several optimizers as one mapping; a new entry goes to the parameter's optimizer."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers

    def __getitem__(self, parameter: Tensor) -> Any:
        return self._state_of(parameter)[parameter]  # adds an empty state if there is none, as an optimizer does

    def __setitem__(self, parameter: Tensor, state: Any) -> None:
        self._state_of(parameter)[parameter] = state

    def __delitem__(self, parameter: Tensor) -> None:
        del self._state_of(parameter)[parameter]

    def __contains__(self, parameter: object) -> bool:
        return any(parameter in optimizer.state for optimizer in self._optimizers)

    def __iter__(self) -> Iterator[Tensor]:
        return (parameter for optimizer in self._optimizers for parameter in optimizer.state)

    def __len__(self) -> int:
        return sum(len(optimizer.state) for optimizer in self._optimizers)

    def clear(self) -> None:
        for optimizer in self._optimizers:
            optimizer.state.clear()

    def _state_of(self, parameter: Tensor) -> MutableMapping[Tensor, Any]:
        for optimizer in self._optimizers:
            if parameter in optimizer.state or any(p is parameter for g in optimizer.param_groups for p in g["params"]):
                return optimizer.state
        return self._optimizers[0].state


def _renumbered(group: dict[str, Any], shift: int) -> dict[str, Any]:
    return {**group, "params": [number + shift for number in group["params"]]}


def _needs_closure(optimizer: Optimizer) -> bool:
    """Return whether `step()` cannot be called without an argument, as LBFGS's cannot.

    The method is taken from the class: a learning rate scheduler replaces the instance's by a function with `self`.
    """
    _, *parameters = inspect.signature(type(optimizer).step).parameters.values()
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
