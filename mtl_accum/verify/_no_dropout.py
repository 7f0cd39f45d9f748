"""Turning off dropout and other random numbers in any module or function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import graph
from torch.overrides import TorchFunctionMode

from mtl_accum._state import same_random_numbers

__all__ = ["NoDropout"]

_DROPOUT = {
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
    torch.feature_dropout,
    torch.alpha_dropout,
    torch.feature_alpha_dropout,
}
_DROPOUT_ARGUMENT = {F.scaled_dot_product_attention: 4, F.multi_head_attention_forward: 10}  # position of dropout_p
_RECURRENT = {getattr(torch, name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")}
_TYPICAL = 0.5  # a value that all of these distributions can take, and that lets gradients through


class NoDropout(TorchFunctionMode):
    """Replace random numbers in the block: dropout returns its input, and noise is a constant.

    A piece of a batch then gets the same values alone and as a part of the whole batch. Permutations, random integers
    and samples from categories stay random.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function without its random numbers."""
        kwargs = dict(kwargs or {})
        if func in (Tensor.backward, torch.autograd.backward):
            with self:  # a mode is off in the functions that it calls, and a backward may rerun a checkpointed forward
                return _backward(*args, **kwargs)
        if func is torch.autograd.grad and not kwargs.get("is_grads_batched"):
            with self:
                return _grad(*args, **kwargs)
        if func in _DROPOUT:
            return args[0] if args else kwargs["input"]
        if func in _DROPOUT_ARGUMENT:
            position = _DROPOUT_ARGUMENT[func]
            if len(args) > position:
                args = (*args[:position], 0.0, *args[position + 1 :])
            elif "dropout_p" in kwargs:
                kwargs["dropout_p"] = 0.0
        elif func in _RECURRENT:  # (..., layers, dropout, training, both directions, [batch first])
            place = next((index for index, value in enumerate(args) if type(value) is float), None)
            args = args if place is None else (*args[:place], 0.0, *args[place + 1 :])
        elif func in _DETERMINISTIC:
            return _DETERMINISTIC[func](*args, **kwargs)
        elif func in _CONSTANT:
            with same_random_numbers(), torch.no_grad():
                drawn: Tensor = func(*args, **kwargs)
                return drawn.copy_(torch.as_tensor(_CONSTANT[func](*args, **kwargs)).expand_as(drawn))
        return func(*args, **kwargs)


def _backward(
    tensors: Tensor | Sequence[Tensor],
    gradients: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
    **names: Any,
) -> None:
    """Run a backward as `Tensor.backward` and `torch.autograd.backward` do; those would turn the mode off."""
    outputs = _as_tuple(tensors)
    starts = _initial_gradients(outputs, names.get("gradient", names.get("grad_tensors", gradients)))
    leaves = () if inputs is None else _as_tuple(inputs)
    keep = create_graph if retain_graph is None else retain_graph
    graph._engine_run_backward(
        outputs, starts, keep, create_graph, leaves, allow_unreachable=True, accumulate_grad=True
    )


def _grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    *,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
    **_: Any,
) -> tuple[Tensor | None, ...]:
    """Return gradients as `torch.autograd.grad` does; that would turn the mode off."""
    ends, leaves = _as_tuple(outputs), _as_tuple(inputs)
    keep = create_graph if retain_graph is None else retain_graph
    gradients = graph._engine_run_backward(
        ends,
        _initial_gradients(ends, grad_outputs),
        keep,
        create_graph,
        leaves,
        allow_unused or materialize_grads,
        accumulate_grad=False,
    )
    if not materialize_grads:
        return gradients
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(gradients, leaves, strict=True))


def _as_tuple(tensors: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)


def _initial_gradients(
    outputs: Sequence[Tensor], gradients: Tensor | Sequence[Tensor | None] | None
) -> tuple[Tensor, ...]:
    """Return the gradients of the outputs that a backward begins with; None stands for ones."""
    if gradients is None or isinstance(gradients, Tensor):
        gradients = [gradients] * len(outputs)
    return tuple(torch.ones_like(out) if g is None else g for out, g in zip(outputs, gradients, strict=True))


def _rrelu(input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, *_: Any, **__: Any) -> Tensor:
    return F.leaky_relu(input, (lower + upper) / 2)


def _gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    del eps  # of the noise, which is left out
    soft = (logits / tau).softmax(dim)
    if not hard:
        return soft
    one_hot = torch.zeros_like(soft).scatter_(dim, soft.argmax(dim, keepdim=True), 1.0)
    return one_hot - soft.detach() + soft


def _typical(*_: Any, **__: Any) -> float:
    return _TYPICAL


def _uniform(_: Tensor, low: float = 0.0, high: float = 1.0, **names: Any) -> float:
    return float(names.get("from", low) + names.get("to", high)) / 2


def _normal(_: Tensor, mean: float = 0.0, std: float = 1.0, **__: Any) -> float:
    return mean + _TYPICAL * std


def _normal_of(mean: Any, std: Any = 1.0, *_: Any, **__: Any) -> Any:
    return mean + _TYPICAL * std


def _likely(input: Tensor, p: Any = None, **__: Any) -> Any:
    return torch.as_tensor(input if p is None else p) >= 0.5


def _likely_in_place(_: Tensor, p: Any = 0.5, **__: Any) -> Any:
    return torch.as_tensor(p) >= 0.5


_DETERMINISTIC: dict[Any, Callable[..., Tensor]] = {F.rrelu: _rrelu, F.gumbel_softmax: _gumbel_softmax}
# The constant in place of every number that a function draws, from its arguments.
_CONSTANT: dict[Any, Callable[..., Any]] = {
    torch.rand: _typical,
    torch.rand_like: _typical,
    torch.randn: _typical,
    torch.randn_like: _typical,
    Tensor.exponential_: _typical,
    Tensor.uniform_: _uniform,
    Tensor.normal_: _normal,
    torch.normal: _normal_of,
    torch.bernoulli: _likely,
    Tensor.bernoulli_: _likely_in_place,
}
