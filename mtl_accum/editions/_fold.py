"""A head's loss with its gradient attached and its graph freed, for every training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mtl_accum.editions._engine import (
    Behind,
    Gradients,
    Scale,
    backpropagate,
    eager,
    expected_scale,
    expecting,
    explain,
    factor_of,
    flatten_any,
    phase,
    require_loss,
    unflatten,
)

__all__ = ["fold"]


@eager
def fold(function: Callable[..., Tensor], *inputs: Any, scale: Scale | None = None) -> Tensor:
    """Compute a loss and its gradient at once, and free its graph before the loss is returned.

    The result is an ordinary 0-dim loss. Its gradient is attached to the inputs and to every parameter that the
    function used: `.backward()` on it, or on a sum that contains it, gives the gradients of a plain call::

        z = encoder(x)                                                    # in autograd's own graph, as usual
        losses = [fold(head_and_loss, z, y) for head_and_loss, y in ...]  # one head's graph at a time
        sum(losses).backward()                                            # by any trainer

    Like `torch.utils.checkpoint`, it changes what a part of the network keeps until the backward; unlike it, nothing
    is computed twice. Instead of the head's activations it keeps the gradients of its inputs and of its parameters:
    use it where these are smaller, as in dense heads.

    Equals `function(*inputs)`, to the last bit for losses that are added up. What it changes:

    - The head's backward runs in the forward. Hooks on tensors and modules inside of the function run in the forward
      too, with gradients that are not scaled yet. Hooks on parameters run in the backward, as usual.
    - `retain_graph=True` and a second backward work; `create_graph=True` is refused.
    - A 16-bit floating point (fp16) head needs the scale of its scaler in the forward: `scale=scaler.get_scale`.
    - Each call holds gradients of the parameters that it used until the backward: for chunks of one head see `chunked`.
    - Under `torch.compile` it is a graph break; compile trunk and heads themselves.

    Under `torch.no_grad()` it is a plain call. Memory: O(function) while it runs; dL/d(inputs) and dL/d(parameters)
    until the backward. Passes: one each.

    Args:
        function: Function from the inputs to a 0-dim loss. Parameters and tensors in its closure get gradients too.
        inputs: Any pytrees. Tensors that require a gradient are detached from their graph for the call.
        scale: Factor of the loss in its backward: a number, a 0-dim tensor, or a callable that returns one. The kept
            gradients contain it until the backward divides it out. By default that of an edition or a `fold` around
            the call.

    Returns:
        The loss, 0-dim.

    Raises:
        TypeError: The function returns no tensor, or `scale` is no number.
        ValueError: The loss is not 0-dim, or `scale` is not greater than 0.
        RuntimeError: The function is in fp16 without `scale`; it reads a tensor whose graph, outside of the inputs,
            belongs to theirs or is gone already; or the backward runs with `create_graph=True`.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    factor = expected_scale() if scale is None else factor_of(scale)
    values, spec = flatten_any(inputs)
    cut = {value: value.detach().requires_grad_() for value in values if _has_graph(value)}
    roots = {leaf: value for value, leaf in cut.items()}
    who = f"fold: {_name(function)}"
    behind = Behind(list(cut))
    try:
        with phase(_name(function), "forward"), expecting(factor):
            loss = function(*unflatten([cut[value] if _has_graph(value) else value for value in values], spec))
        require_loss(who, loss)
        gradients = Gradients(factor)
        if not loss.requires_grad:
            return loss
        with phase(_name(function), "backward"):
            backpropagate(gradients, loss, {leaf: (leaf, None) for leaf in roots}, behind, who)
    except RuntimeError as error:
        explain(error, who)
        raise
    gradients.move_to(roots)
    return gradients.attach(loss)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _has_graph(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
