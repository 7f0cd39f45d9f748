"""The tensor meter: bytes of live tensor storages, on any device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from mtl_accum.memory._record import PeakMemory

__all__ = ["TensorMeter"]


class TensorMeter(TorchDispatchMode):
    """Counts the bytes of all tensor storages that are alive inside its block.

    Every operator is seen, those of the backward and of the optimizer too; a storage counts from its first
    sight until Python and autograd have let go of it. Not seen: buffers inside a kernel (a convolution's
    reordered copies), and the intermediate tensors of compiled code.

    Args:
        device: the device whose storages count.
        tensors: pytrees of tensors that are alive already: parameters, optimizer state, inputs.
    """

    def __init__(self, device: torch.device, *tensors: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self._sizes: dict[int, int] = {}
        self._references: dict[int, weakref.ref[UntypedStorage]] = {}
        self._live = 0
        self._add(tree_leaves(tensors))
        self._base = self._peak = self._live

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let compiled code run compiled; without it Dynamo would mark the user's code as skipped for ever."""
        return True

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator and count what it made."""
        out = func(*args, **(kwargs or {}))
        self._add(tree_leaves(out))
        self._peak = max(self._peak, self._live)
        return out

    def result(self) -> PeakMemory:
        """The peak since this meter was made."""
        return PeakMemory(
            "tensors", str(self._device), peak_bytes=self._peak, base_bytes=self._base, end_bytes=self._live
        )

    def _add(self, leaves: Iterable[Any]) -> None:
        for leaf in leaves:
            if isinstance(leaf, Tensor) and leaf.device == self._device:
                for storage in _storages(leaf):
                    self._count(storage)

    def _count(self, storage: UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._live += size - self._sizes.get(key, 0)  # known: it may have been resized
        self._sizes[key] = size
        if key not in self._references:
            self._references[key] = weakref.ref(storage, lambda _: self._forget(key))

    def _forget(self, key: int) -> None:
        del self._references[key]
        self._live -= self._sizes.pop(key)


def _storages(tensor: Tensor) -> Iterable[UntypedStorage]:
    """The storages behind a tensor; several for sparse tensors and wrapper subclasses."""
    if is_traceable_wrapper_subclass(tensor):  # type: ignore[unreachable]  # mypy: the classes are disjoint
        names, _ = tensor.__tensor_flatten__()  # type: ignore[unreachable]
        return [storage for name in names for storage in _storages(getattr(tensor, name))]
    if tensor.layout is torch.sparse_coo:
        return [tensor._values().untyped_storage(), tensor._indices().untyped_storage()]
    return [tensor.untyped_storage()] if tensor.layout is torch.strided else []
