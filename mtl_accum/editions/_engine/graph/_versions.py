"""Autograd's version counter of a tensor."""

from __future__ import annotations

from torch import Tensor

__all__ = ["version_of"]


def version_of(tensor: Tensor) -> int:
    """Return autograd's version of a tensor; 0 for a tensor of inference mode, which has none."""
    return 0 if tensor.is_inference() else tensor._version
