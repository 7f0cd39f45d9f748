"""State of a training run as tensors and JSON values, restored bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mtl_accum.training.checkpoint._codec import decode, encode

__all__ = ["collect", "expect_to_fit", "restore"]

# Errors of loading a state that does not fit.
_MISFITS = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError)


def collect(
    model: nn.Module, optimizer: torch.optim.Optimizer, other: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Collect the content of a checkpoint: model, optimizer, and other state.

    Args:
        model: Model whose parameters and buffers to collect.
        optimizer: Optimizer of the model's parameters; its state is empty before its first step.
        other: Other states by name, of any nesting.

    Returns:
        Tensors by name, and values that JSON can hold.

    Raises:
        TypeError: A state holds something that a checkpoint cannot.
    """
    state = {
        "model": model.state_dict(),
        "optimizer": _by_name(optimizer, model),
        **other,
    }
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for name, part in state.items():
        part_tensors, values[name] = encode(part, name)
        tensors |= part_tensors
    return tensors, {"state": values}


def restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Restore model and optimizer from what `collect` returned.

    Returns:
        The other states by name.

    Raises:
        ValueError: The state is that of another model or optimizer.
    """
    with expect_to_fit("model or optimizer"):
        state: dict[str, Any] = decode(values["state"], tensors)
        model.load_state_dict(state.pop("model"))
        optimizer.load_state_dict(_by_number(state.pop("optimizer"), optimizer, model))
        _match_memory_format(optimizer)
    return state


@contextmanager
def expect_to_fit(part: str) -> Iterator[None]:
    """Raise a ValueError of one line if a state does not fit in the block.

    Args:
        part: Name of the part that the state must fit, for the message.
    """
    try:
        yield
    except _MISFITS as error:
        raise ValueError(f"the checkpoint is of another {part}: {' '.join(str(error).split())}") from error


def _names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Return the names of an optimizer's parameters in the model, in the order of the numbers in its state."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [names.get(id(parameter), f"#{index}") for index, parameter in enumerate(ordered)]


def _by_name(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """Return an optimizer's state by the parameters' names, independent of the order of its parameters."""
    names, state = _names(optimizer, model), optimizer.state_dict()
    groups = [{**group, "params": [names[index] for index in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[index]: value for index, value in state["state"].items()}, "param_groups": groups}


def _match_memory_format(optimizer: torch.optim.Optimizer) -> None:
    """Copy state into its parameter's memory format, as the optimizer makes it: kernels pair elements by position."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _by_number(state: Mapping[str, Any], optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """Return an optimizer's state by the parameters' numbers, from `_by_name`."""
    numbers = {name: index for index, name in enumerate(_names(optimizer, model))}
    groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {numbers[name]: value for name, value in state["state"].items()}, "param_groups": groups}
