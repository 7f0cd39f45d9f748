"""Offloading of the trunk's activations to the host, around any edition."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.parameter import is_lazy

from mtl_accum.editions._engine import (
    Edition,
    EditionLike,
    Form,
    Schedule,
    Tasks,
    Trunk,
    around_trunk,
    leaves,
    modules_of,
    require_edition,
    require_parts,
    run_inner,
    version_of,
)

__all__ = ["TO_HOST", "Offloaded"]

_SMALL = 65536  # bytes; moving less costs more time than it saves memory


@final
@dataclass(frozen=True)
class Offloaded(Schedule):
    """Offloaded: the tensors that the trunk saves for its backward are kept in the CPU's memory until then.

    Equals the edition with `torch.autograd.graph.save_on_cpu(pin_memory=True)` around the trunk, without the copies
    of parameters, buffers and batch that it would make.

    Memory: the edition's, without the trunk's activations; as much page-locked memory on the host. Passes: as the
    edition; every saved tensor crosses the bus twice, one after the other on the stream of the computation.

    Around `Checkpointed`, the inputs of the blocks are offloaded. On a CPU it makes copies and saves nothing.

    Reference: Rhu, Gimelshein, Clemons, Zulfiqar and Keckler (2016), vDNN: Virtualized Deep Neural Networks for
    Scalable, Memory-Efficient Neural Network Design.

    Args:
        edition: Edition that computes the gradient.

    Raises:
        TypeError: `edition` has no `forward_backward`.
    """

    config_group = "offloaded"

    edition: EditionLike

    def __post_init__(self) -> None:
        require_edition(self.edition)

    @property
    def inner(self) -> Edition:
        """The edition inside."""
        return require_edition(self.edition)

    def run(self, form: Form, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Schedule.run`."""
        require_parts(trunk, tasks)
        modules = modules_of(trunk)
        owned = [t for m in modules for t in (*m.parameters(recurse=False), *m.buffers(recurse=False))]
        kept_storages = {_storage(tensor) for tensor in owned if not is_lazy(tensor)}  # a lazy one has no storage yet
        kept_storages |= {_storage(leaf) for leaf in leaves(batch) if isinstance(leaf, Tensor)}
        with around_trunk(partial(_offloading, kept_storages)):
            return run_inner(form, self.inner, trunk, tasks, batch)


def _offloading(kept_storages: set[int], trunk: Trunk, batch: Any) -> Any:
    to_host = TO_HOST.get()

    def pack(tensor: Tensor) -> Callable[[], Tensor]:
        small = tensor.numel() * tensor.element_size() < _SMALL
        return _Kept(tensor) if small or _storage(tensor) in kept_storages else to_host(tensor)

    with saved_tensors_hooks(pack, lambda packed: packed()):
        return trunk(batch)


class _Kept:
    """A tensor that stays on its device, with the check of versions that autograd leaves to its hooks."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.detach()  # `.data = ...` must not replace it
        self._version = version_of(tensor)

    def __call__(self) -> Tensor:
        version = version_of(self._tensor)
        if version != self._version:
            raise RuntimeError(
                "Offloaded: one of the variables needed for gradient computation has been modified by an inplace "
                f"operation: {self._tensor.dtype} {tuple(self._tensor.shape)} is at version {version}; "
                f"expected version {self._version}. Call backward before optimizer.step(), and use out-of-place forms"
            )
        return self._tensor


def _storage(tensor: Tensor) -> int:
    """Return an identifier of a storage while it is alive; 0 for a tensor that has none."""
    return tensor.untyped_storage()._cdata if tensor.layout in (torch.strided, torch.jagged) else 0


def _copied(tensor: Tensor) -> Callable[[], Tensor]:
    """Copy a tensor to the host, and return the function that copies it back."""
    pinned = tensor.is_cuda
    host = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
    host.copy_(tensor, non_blocking=pinned)
    device = tensor.device
    return lambda: host.to(device, non_blocking=pinned, copy=True)


# Function that copies a tensor to the host. A prediction, which has neither host nor device, replaces it.
TO_HOST: ContextVar[Callable[[Tensor], Callable[[], Tensor]]] = ContextVar("mtl_accum_to_host", default=_copied)
