"""Several optimizers as one: Muon for the matrices and AdamW for the rest, one for the trunk and one for the heads."""

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
    """Turn what a user passes as `optimizer=` into one optimizer.

    Args:
        optimizer: An optimizer, a list or tuple of them, or None.

    Returns:
        The optimizer itself, a `JointOptimizer` of several, or None.

    Raises:
        TypeError: It is something else.
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
    """Turn `optimizer=` into one optimizer whose `step()` can be called without an argument.

    Raises:
        TypeError: It is neither an optimizer, nor a list of them, nor None.
        ValueError: The step of an optimizer needs a closure, as LBFGS's does; or one is in the list twice.
    """
    one = joined(optimizer)
    for each in one.optimizers if isinstance(one, JointOptimizer) else [one] if one is not None else []:
        if _needs_closure(each):
            raise ValueError(
                f"optimizer: {type(each).__name__} needs a closure, to compute losses and gradients again several "
                "times a step, which an edition does once; use an optimizer whose step() needs none, such as AdamW"
            )
    return one


class JointOptimizer(Optimizer):
    """Several optimizers behind the interface of one: they step together, in their order.

    Its groups are the optimizers' own groups and its state is their state, so a scheduler of the learning rate, a
    gradient scaler and a checkpoint see one optimizer.

    Args:
        optimizers: Optimizers of different parameters.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = list(optimizers)
        self.__setstate__({})

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizers": self.optimizers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make what every optimizer has besides groups and state, its hooks."""
        super().__setstate__({"defaults": {}, **state})

    def __repr__(self) -> str:
        return f"JointOptimizer({self.optimizers!r})"

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all of them, in order; the dictionaries are theirs."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def state(self) -> _JointState:  # type: ignore[override]
        """The state of all of them, by parameter."""
        return _JointState(self.optimizers)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step with each of them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Free or zero the gradients of all of them."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: a group belongs to one of the optimizers."""
        raise ValueError("add_param_group: add the group to one of the optimizers instead")

    def state_dict(self) -> dict[str, Any]:
        """Merge what each of them would save; parameters are numbered through all groups, as one optimizer does."""
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        for optimizer, first in zip(self.optimizers, self._first_numbers(), strict=True):
            saved = optimizer.state_dict()
            state |= {first + number: kept for number, kept in saved["state"].items()}
            groups += [_moved(group, first) for group in saved["param_groups"]]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give each of them its part of what `state_dict` has merged.

        Raises:
            ValueError: The groups are not those of these optimizers.
        """
        groups = list(state_dict["param_groups"])
        if len(groups) != len(self.param_groups):
            raise ValueError(f"state_dict: expected {len(self.param_groups)} parameter groups, found {len(groups)}")
        for optimizer, first in zip(self.optimizers, self._first_numbers(), strict=True):
            own, groups = groups[: len(optimizer.param_groups)], groups[len(optimizer.param_groups) :]
            numbers = {number for group in own for number in group["params"]}
            state = {number - first: kept for number, kept in state_dict["state"].items() if number in numbers}
            optimizer.load_state_dict({"state": state, "param_groups": [_moved(group, -first) for group in own]})

    def _first_numbers(self) -> Iterator[int]:
        """Yield the number of each optimizer's first parameter."""
        first = 0
        for optimizer in self.optimizers:
            yield first
            first += sum(len(group["params"]) for group in optimizer.param_groups)


class _JointState(MutableMapping[Tensor, Any]):
    """The states of several optimizers as one mapping; a new entry goes to the optimizer of the parameter."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers

    def __getitem__(self, parameter: Tensor) -> Any:
        return self._of(parameter)[parameter]  # makes an empty state where there is none, as an optimizer does

    def __setitem__(self, parameter: Tensor, state: Any) -> None:
        self._of(parameter)[parameter] = state

    def __delitem__(self, parameter: Tensor) -> None:
        del self._of(parameter)[parameter]

    def __contains__(self, parameter: object) -> bool:
        return any(parameter in optimizer.state for optimizer in self._optimizers)

    def __iter__(self) -> Iterator[Tensor]:
        return (parameter for optimizer in self._optimizers for parameter in optimizer.state)

    def __len__(self) -> int:
        return sum(len(optimizer.state) for optimizer in self._optimizers)

    def clear(self) -> None:
        for optimizer in self._optimizers:
            optimizer.state.clear()

    def _of(self, parameter: Tensor) -> MutableMapping[Tensor, Any]:
        for optimizer in self._optimizers:
            if parameter in optimizer.state or any(p is parameter for g in optimizer.param_groups for p in g["params"]):
                return optimizer.state
        return self._optimizers[0].state


def _moved(group: dict[str, Any], by: int) -> dict[str, Any]:
    return {**group, "params": [number + by for number in group["params"]]}


def _needs_closure(optimizer: Optimizer) -> bool:
    """Return whether `step()` cannot be called without an argument, as LBFGS's cannot.

    The class's method is read: a learning rate scheduler replaces the instance's by a function with `self`.
    """
    _, *parameters = inspect.signature(type(optimizer).step).parameters.values()
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
