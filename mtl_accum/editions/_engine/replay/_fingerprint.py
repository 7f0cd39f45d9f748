"""Fingerprints of representations: two numbers for every row, to compare a second pass with the first."""

from __future__ import annotations

from numbers import Number
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from mtl_accum.editions._engine.batch._pytree import leaves
from mtl_accum.editions._engine.graph._autocast import without_autocast

__all__ = ["Fingerprint"]

# Relative to a row's norm: what another order of additions, or another kernel of the library's choice, may change.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_ROUNDING_ON_GPU = 5e-3  # TF32, where a library may take another algorithm the second time


class Fingerprint:
    """Norm and weighted sum of every row of the tensors in a container.

    A row belongs to one sample, so a change of a single sample shows. The tensors are not kept alive. Tensors without
    data (of a dry run), and tensors of other kinds, are left out.

    Args:
        tree: Any container.
    """

    def __init__(self, tree: Any) -> None:
        with torch.no_grad(), _disable_current_modes(), without_autocast():
            self._values = [_summary(leaf) for leaf in leaves(tree)]

    def differs(self, other: Fingerprint) -> bool:
        """Return whether two fingerprints differ by more than rounding."""
        if len(self._values) != len(other._values):
            return True
        return any(_differ(mine, theirs) for mine, theirs in zip(self._values, other._values, strict=True))


def _summary(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf if isinstance(leaf, Number | str | bytes) else None
    plain = type(leaf) in (Tensor, torch.nn.Parameter) and leaf.layout == torch.strided and not leaf.is_nested
    if not plain or leaf.is_meta or not leaf.numel() or _unreadable(leaf):
        return None
    leaf = leaf.resolve_conj().resolve_neg()  # `view_as_real` refuses such views
    if leaf.is_complex():
        leaf = torch.view_as_real(leaf)
    if leaf.is_floating_point() and leaf.dtype not in _ROUNDING:
        return None  # 8 bit: no arithmetic
    if leaf.dim() == 4 and not leaf.is_contiguous():
        leaf = leaf.permute(0, 2, 3, 1)  # the memory order of channels last: flattening makes no copy
    rows = leaf.reshape(len(leaf) if leaf.dim() else 1, -1)
    if not leaf.is_floating_point():
        places = (1000 * _weights(rows.shape[1])).to(rows.device, torch.int64)
        return leaf.dtype, leaf.shape, (rows.to(torch.int64) * places).sum(1)
    weights = _weights(rows.shape[1]).to(rows.device, rows.dtype)
    return leaf.dtype, leaf.shape, rows @ weights, torch.linalg.vector_norm(rows, dim=1)


def _weights(length: int) -> Tensor:
    """Return a weight for each entry of a row, all of them different.

    A shift of all entries must not cancel, and tokens in another order must have another sum: under weights with a
    period that divides a token's width they would not. No global generator is used.
    """
    draw = torch.Generator("cpu").manual_seed(0)
    weights = torch.rand(length, generator=draw, dtype=torch.float64, device="cpu") + 0.5
    return torch.where(torch.rand(length, generator=draw, device="cpu") < 0.5, -weights, weights)


def _differ(mine: Any, theirs: Any) -> bool:
    if not isinstance(mine, tuple) or not isinstance(theirs, tuple):
        return bool(mine != theirs)
    if mine[:2] != theirs[:2]:
        return True
    if len(mine) == 3:
        return not torch.equal(mine[2], theirs[2])
    bound = _ROUNDING[mine[0]]
    if mine[2].is_cuda and mine[0] == torch.float32:
        bound = _ROUNDING_ON_GPU
    norm = torch.maximum(mine[3], theirs[3])
    scale = norm + 1e-3 * norm.nan_to_num(0, 0, 0).mean()  # a row of zeros is no more accurate than its neighbours
    same = ((mine[2] - theirs[2]).abs() <= 2 * bound * scale) & ((mine[3] - theirs[3]).abs() <= bound * scale)
    alike = same | (mine[2].isfinite().logical_not() & theirs[2].isfinite().logical_not())
    return not bool(alike.all())


def _unreadable(leaf: Tensor) -> bool:
    """Return whether a value cannot be read: during the capture of a CUDA graph, or under `vmap`."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    return leaf.is_cuda and torch.cuda.is_current_stream_capturing()
