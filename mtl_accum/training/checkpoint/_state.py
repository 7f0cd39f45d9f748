"""The state of a training run as tensors and values, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mtl_accum.training.checkpoint._codec import decode, encode

__all__ = ["expect_to_fit", "gather", "restore"]

_MISFITS = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError)  # of who reads a state


def gather(
    model: nn.Module, optimizer: torch.optim.Optimizer, also: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a checkpoint holds: the model, the optimizer, and what else there is.

    Args:
        model: parameters and buffers.
        optimizer: of the model's parameters; one that has done no step has no state, and is not asked for any.
        also: other states by name, of any nesting.

    Returns:
        Tensors by name and what JSON can hold, for `_checkpoint.save`.

    Raises:
        TypeError: a state holds something that a checkpoint cannot.
    """
    state = {
        "model": model.state_dict(),
        "optimizer": _named(optimizer, model),
        **also,
    }
    tensors: dict[str, Tensor] = {}
    written: dict[str, Any] = {}
    for name, part in state.items():
        of_part, written[name] = encode(part, name)
        tensors |= of_part
    return tensors, {"state": written}


def restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Put model and optimizer back to what `gather` has seen.

    Returns:
        The other states by name.

    Raises:
        ValueError: model or optimizer are not the ones that were gathered.
    """
    with expect_to_fit("model or optimizer"):
        state: dict[str, Any] = decode(values["state"], tensors)
        model.load_state_dict(state.pop("model"))
        optimizer.load_state_dict(_numbered(state.pop("optimizer"), optimizer, model))
        _lay_out(optimizer)
    return state


@contextmanager
def expect_to_fit(part: str) -> Iterator[None]:
    """Raise a ValueError in one line where a state turns out to be of another part, or is none at all."""
    try:
        yield
    except _MISFITS as error:
        raise ValueError(f"the checkpoint is of another {part}: {' '.join(str(error).split())}") from error


def _names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """The parameters of an optimizer by their names in the model, in the order of its state's numbers."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [known.get(id(parameter), f"#{index}") for index, parameter in enumerate(ordered)]


def _named(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """Its state by the parameters' names: no number depends on the order in which they were handed over."""
    names, state = _names(optimizer, model), optimizer.state_dict()
    groups = [{**group, "params": [names[index] for index in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[index]: kept for index, kept in state["state"].items()}, "param_groups": groups}


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """State in the parameters' memory format, as the optimizer makes it: kernels pair elements by their place."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _numbered(state: Mapping[str, Any], optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    numbers = {name: index for index, name in enumerate(_names(optimizer, model))}
    groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {numbers[name]: kept for name, kept in state["state"].items()}, "param_groups": groups}
