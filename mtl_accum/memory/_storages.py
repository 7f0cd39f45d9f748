"""Storages: which ones stand behind a tensor, what is known of a live one, and who makes them."""

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
_WRAPPERS = ("torch._dynamo", "torch._compile")  # around every dispatch mode


class Event(NamedTuple):
    """A storage came to life, or died.

    Attributes:
        storage: its number.
        size: its bytes; negative where it died.
        operator: what made it.
        phase: when it was made.
    """

    storage: int
    size: int
    operator: str
    phase: str


class Storage:
    """What is known of a live storage."""

    __slots__ = ("birth", "category", "event", "generation", "reference", "size")

    def __init__(self, size: int, category: str, birth: int, generation: int, event: Event | None) -> None:
        self.size, self.category, self.birth, self.generation, self.event = size, category, birth, generation, event
        self.reference: weakref.ref[UntypedStorage] | None = None


def storages(tensor: Tensor) -> Iterable[UntypedStorage]:
    """The storages behind a tensor; several for sparse tensors and wrapper subclasses."""
    if is_traceable_wrapper_subclass(tensor):  # type: ignore[unreachable]  # mypy: the classes are disjoint
        names, _ = tensor.__tensor_flatten__()  # type: ignore[unreachable]
        return [storage for name in names for storage in storages(getattr(tensor, name))]
    if tensor.layout is torch.strided:
        return (tensor.untyped_storage(),)
    if tensor.layout is torch.sparse_coo:
        return (tensor._values().untyped_storage(), tensor._indices().untyped_storage())
    return ()


def called_by_autograd() -> bool:
    """Whether autograd itself runs this operator, and not Python code in a backward."""
    frame = sys._getframe(1).f_back
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_WRAPPERS):
        frame = frame.f_back
    return frame is None or frame.f_code is _ENGINE  # None: autograd's own thread for a device
