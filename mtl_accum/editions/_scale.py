"""A factor on the backward alone: a loss scaler, a piece's weight, a world size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["backward_scale", "scaled_one"]

_SCALE: ContextVar[float | Tensor] = ContextVar("mtl_accum_backward_scale", default=1.0)


@contextmanager
def backward_scale(scale: float | Tensor) -> Iterator[None]:
    """Multiply every gradient that editions add inside the block; the returned losses stay unscaled.

    With `torch.amp.GradScaler`: `with backward_scale(scaler.scale(torch.ones((), device=...))): ...`, on
    the losses' device.
    Nested blocks multiply. Read in the calling thread only.

    Args:
        scale: a number or a 0-dim tensor (no synchronisation then).

    Raises:
        TypeError: scale is neither.
    """
    if not isinstance(scale, int | float) and not (isinstance(scale, Tensor) and scale.dim() == 0):
        raise TypeError(f"scale must be a number or a 0-dim tensor, found {scale!r}")
    token = _SCALE.set(_SCALE.get() * scale)
    try:
        yield
    finally:
        _SCALE.reset(token)


def scaled_one(loss: Tensor) -> Tensor | None:
    """The gradient to start this loss's backward with; None stands for 1."""
    scale = _SCALE.get()
    if isinstance(scale, Tensor):
        return scale.to(loss)
    return None if scale == 1.0 else torch.full_like(loss, scale)
