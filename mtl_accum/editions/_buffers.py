"""The values of buffers before a step, for its replays and for the way back after an exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mtl_accum.editions._modules import modules_of

__all__ = ["BufferLog", "Saved"]

Slot = tuple[int, str]  # id of the owning module, name of the buffer


class Saved:
    """One buffer: where it lives, the tensor that was there, and its value then."""

    def __init__(self, owner: nn.Module, name: str, tensor: Tensor) -> None:
        self.owner, self.name, self.tensor = owner, name, tensor
        self.value = tensor.detach().clone()
        self._version = tensor._version

    def may_have_changed(self) -> bool:
        """Whether somebody may have written to the buffer or put another tensor in its place.

        Floating-point buffers always may: batch normalisation's kernels write running statistics without
        autograd's version counter, and comparing values would wait for the device.
        """
        return (
            self.tensor.is_floating_point()
            or self.tensor._version != self._version
            or self.owner._buffers.get(self.name) is not self.tensor
        )

    def restore(self) -> None:
        """Put the tensor and its value back."""
        self.owner._buffers[self.name] = self.tensor
        with torch.no_grad():
            self.tensor.copy_(self.value)


class BufferLog:
    """Keeps the original values of those buffers that a step has changed so far.

    A buffer that a pass cannot have changed is forgotten after it: a causal mask has a copy only while a pass
    runs that might write to it.
    """

    def __init__(self) -> None:
        self._saved: dict[Slot, Saved] = {}
        self._modules: dict[int, list[nn.Module]] = {}

    @contextmanager
    def watch(self, function: Callable[..., Any]) -> Iterator[None]:
        """Record which buffers of the callable's modules change in the block."""
        fresh = [
            Saved(module, name, tensor)
            for module in self._modules_of(function)
            for name, tensor in module._buffers.items()
            if tensor is not None and (id(module), name) not in self._saved
        ]
        if not fresh:
            yield
            return
        self._saved.update({(id(saved.owner), saved.name): saved for saved in fresh})
        yield  # after an exception all of them stay, for `restore`
        for saved in fresh:
            if not saved.may_have_changed():
                del self._saved[id(saved.owner), saved.name]

    def changed(self) -> list[Saved]:
        """The buffers that may have changed since the first block, with their values before it."""
        return list(self._saved.values())

    def restore(self) -> None:
        """Give every buffer the value that it had before the step."""
        for saved in self._saved.values():
            saved.restore()

    def _modules_of(self, function: Callable[..., Any]) -> list[nn.Module]:
        if id(function) not in self._modules:
            self._modules[id(function)] = modules_of(function)
        return self._modules[id(function)]
