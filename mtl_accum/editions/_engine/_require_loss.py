"""The check that a loss is a real 0-dim tensor."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["require_loss"]


def require_loss(who: str, loss: Any) -> None:
    """Raise unless a loss is one real number.

    Args:
        who: Name of the task or function in messages.
        loss: Returned value.

    Raises:
        TypeError: The loss is no tensor, or complex.
        ValueError: The loss is not 0-dim.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"{who}: expected a 0-dim tensor as loss, found {type(loss).__name__}")
    if loss.is_complex():
        raise TypeError(f"{who}: expected a real loss, found one of {loss.dtype}; take its real part or its modulus")
    if loss.dim():
        raise ValueError(
            f"{who}: expected a 0-dim loss, found one of shape {tuple(loss.shape)}; reduce it to a mean, e.g. "
            "reduction='mean'"
        )
