"""Tensor storages: the storages of a tensor, records of live storages, and events of their creation and death."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

__all__ = ["Event", "Storage", "called_by_autograd", "storages"]

_ENGINE = torch.autograd.graph._engine_run_backward.__code__
_WRAPPERS = ("torch._dynamo", "torch._compile")  # wrappers around every dispatch mode


class Event(NamedTuple):
    """Creation or death of a storage.

    Attributes:
        storage: Number of the storage.
        size: Bytes of the storage; negative for its death.
        operator: Operator that created it.
        phase: Phase in which it was created.
    """

    storage: int
    size: int
    operator: str
    phase: str


class Storage:
    """Record of a live storage.

    Args:
        size: Bytes.
        category: Category of the bytes, a field of `Breakdown`.
        birth: Number of the storage, in the order of creation.
        generation: Number of backwards that had begun at its creation.
        event: Event of its creation, with `trace`.
    """

    __slots__ = ("birth", "category", "event", "generation", "reference", "size")

    def __init__(self, size: int, category: str, birth: int, generation: int, event: Event | None) -> None:
        self.size, self.category, self.birth, self.generation, self.event = size, category, birth, generation, event
        self.reference: weakref.ref[UntypedStorage] | None = None


def storages(tensor: Tensor) -> Iterable[UntypedStorage]:
    """Return the storages of a tensor; several for sparse tensors and wrapper subclasses."""
    if is_traceable_wrapper_subclass(tensor):  # type: ignore[unreachable]  # mypy: the classes are disjoint
        names, _ = tensor.__tensor_flatten__()  # type: ignore[unreachable]
        return [storage for name in names for storage in storages(getattr(tensor, name))]
    if tensor.layout is torch.strided:
        return (tensor.untyped_storage(),)
    if tensor.layout is torch.sparse_coo:
        return (tensor._values().untyped_storage(), tensor._indices().untyped_storage())
    return ()


def called_by_autograd() -> bool:
    """Return whether autograd itself called the current operator, not Python code in a backward."""
    frame = sys._getframe(1).f_back
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_WRAPPERS):
        frame = frame.f_back
    return frame is None or frame.f_code is _ENGINE  # None: autograd's own thread for a device
