"""Copies of a batch, for networks that write into their batch."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mtl_accum._torch_pytree import keystr, tree_leaves, tree_leaves_with_path, tree_map_only

__all__ = ["fresh_batch", "inputs_with_gradients"]


def fresh_batch(batch: Any) -> Any:
    """Copy a batch deeply, containers of unknown kinds included.

    Tensors that share memory share it in the copy. A tensor that requires a gradient is a leaf in the copy.

    Args:
        batch: Any nesting of tensors and other values.

    Returns:
        The copy. A value that cannot be copied (a lock, a generator) is shared with the batch.
    """
    memo: dict[int, Any] = {}
    strided = {id(tensor): tensor for tensor in tree_leaves(batch) if _is_strided(tensor)}
    users = Counter(tensor.untyped_storage().data_ptr() for tensor in strided.values())
    for key, tensor in strided.items():
        storage = tensor.untyped_storage()
        alone = users[storage.data_ptr()] == 1
        if tensor.grad_fn is not None or (alone and storage.nbytes() > tensor.numel() * tensor.element_size()):
            memo[key] = _leaf(tensor)  # deepcopy refuses the first, and copies the whole storage of the second
    try:
        fresh = copy.deepcopy(batch, memo)
    except Exception:  # a lock, a generator, an open file
        fresh = tree_map_only(Tensor, _leaf, batch)
    for tensor in tree_leaves(fresh):
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            tensor.grad = None
    return fresh


def inputs_with_gradients(batch: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a batch that require a gradient, each once, with their paths."""
    seen: set[int] = set()
    for path, leaf in tree_leaves_with_path(batch):
        if isinstance(leaf, Tensor) and leaf.requires_grad and id(leaf) not in seen:
            seen.add(id(leaf))
            yield f"batch{keystr(path)}", leaf


def _is_strided(leaf: Any) -> bool:
    return type(leaf) in (Tensor, torch.nn.Parameter) and leaf.layout == torch.strided


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)
