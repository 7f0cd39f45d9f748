"""Autograd's errors with the name of the task and, where it is known, the fix."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mtl_accum.editions._engine.batch._pytree import leaves

__all__ = ["explain", "explain_derivative", "watching_derivatives"]

_BEHIND = (
    "it differentiates with respect to what lies behind the representation (the network's input), where a head's graph "
    "ends; PerTask() and SummedLoss() keep trunk and head in one graph"
)
_FIXES = {
    "leaf Variable that requires grad is being used in an in-place operation": (
        "the head starts with an in-place operation on the representation; use its out-of-place form"
    ),
    "backward through the graph a second time": (
        "it reads what another task, or the trunk behind the representation, computed; that graph is gone"
    ),
    "incompatible with .grad()": (
        "it runs torch.utils.checkpoint with use_reentrant=True, which needs a backward of its own; pass "
        "use_reentrant=False"
    ),
}


def explain(error: RuntimeError, who: str) -> None:
    """Raise an error of autograd again with a name and the fix, if there is a known one; else do nothing."""
    text = str(error)
    for words, fix in _FIXES.items():
        if words in text:
            raise RuntimeError(f"{who}: {fix} ({text})") from error


def explain_derivative(error: RuntimeError, who: str) -> None:
    """Raise autograd's error about a derivative that ends at the representation again; ignore other errors."""
    text = str(error)
    if text == _BEHIND:
        raise RuntimeError(f"{who}: {text}") from error
    if "appears to not have been used in the graph" in text:
        raise RuntimeError(f"{who}: {_BEHIND} ({text})") from error


def watching_derivatives(batch: Any) -> AbstractContextManager[object]:
    """Refuse derivatives of a head with respect to the batch, which end at the representation.

    With `allow_unused=True`, which torch's own message recommends, they would silently be None. Only batches with a
    tensor that requires a gradient are watched.
    """
    inputs = {_storage(leaf) for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.requires_grad}
    return _Derivatives(inputs) if inputs else nullcontext()


class _Derivatives(TorchFunctionMode):
    def __init__(self, inputs: set[int]) -> None:
        super().__init__()
        self._inputs = inputs

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function, and check the result of `torch.autograd.grad`."""
        named = kwargs or {}
        result = func(*args, **named)
        if func is torch.autograd.grad:
            inputs = named["inputs"] if "inputs" in named else args[1]
            pairs = zip(result, [inputs] if isinstance(inputs, Tensor) else inputs, strict=True)
            if any(gradient is None and _storage(x) in self._inputs for gradient, x in pairs):
                raise RuntimeError(_BEHIND)
        return result


def _storage(tensor: Tensor) -> int:
    """Return an identifier that a tensor and its slices share."""
    return int(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else id(tensor)
