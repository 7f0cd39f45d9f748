"""Factors of the backward alone: a loss scaler, a world size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["ambient_scale", "backward_scale", "expected_scale", "expecting", "set_aside", "start_gradient"]

_SCALE: ContextVar[float | Tensor] = ContextVar("mtl_accum_backward_scale", default=1.0)
_EXPECTED: ContextVar[float | Tensor | None] = ContextVar("mtl_accum_expected_scale", default=None)


@contextmanager
def backward_scale(scale: float | Tensor) -> Iterator[None]:
    """Multiply every gradient that editions add inside the block; the returned losses stay unscaled.

    With `torch.amp.GradScaler`: `with backward_scale(scaler.scale(torch.ones((), device=...))): ...`, on
    the losses' device.
    Nested blocks multiply. Read in the calling thread only.

    Args:
        scale: Number, or 0-dim tensor, which causes no synchronisation.

    Raises:
        TypeError: `scale` is neither.
    """
    if not isinstance(scale, int | float) and not (isinstance(scale, Tensor) and scale.dim() == 0):
        raise TypeError(f"scale must be a number or a 0-dim tensor, found {scale!r}")
    token = _SCALE.set(_SCALE.get() * scale)
    try:
        yield
    finally:
        _SCALE.reset(token)


@contextmanager
def set_aside() -> Iterator[float | Tensor | None]:
    """Set the scale around the caller to 1 inside of the block, which gets the scale instead; None for 1."""
    scale = ambient_scale()
    token = _SCALE.set(1.0)
    try:
        yield scale
    finally:
        _SCALE.reset(token)


@contextmanager
def expecting(scale: float | Tensor | None) -> Iterator[None]:
    """Set the expected scale of losses in the block whose gradients are computed early."""
    token = _EXPECTED.set(scale)
    try:
        yield
    finally:
        _EXPECTED.reset(token)


def expected_scale() -> float | Tensor | None:
    """Return the factor of a loss in its later backward; None where it is unknown."""
    expected = _EXPECTED.get()
    return ambient_scale() if expected is None else expected


def ambient_scale() -> float | Tensor | None:
    """Return the product of the scales around the caller; None for 1, which needs no multiplication."""
    scale = _SCALE.get()
    return None if not isinstance(scale, Tensor) and scale == 1.0 else scale


def start_gradient(loss: Tensor, scale: float | Tensor) -> Tensor:
    """Return the gradient to start a loss's backward with, in its precision and on its device."""
    return scale.to(loss) if isinstance(scale, Tensor) else torch.full_like(loss, scale)
