"""The values of buffers before a pass, for its replays and for the way back after an exception."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["BufferLog", "Saved", "is_constant"]


_STATISTICS = 65536  # elements; more than a layer has channels


class Saved:
    """One buffer: where it lives, the tensor that was there (or None), and its value then."""

    def __init__(self, owner: nn.Module, name: str, tensor: Tensor | None) -> None:
        self.owner, self.name, self.tensor = owner, name, tensor
        self.value = None if tensor is None else tensor.detach().clone()
        self._version = 0 if tensor is None else tensor._version

    @property
    def slot(self) -> tuple[int, str]:
        """What tells this buffer from all others."""
        return id(self.owner), self.name

    def may_have_changed(self) -> bool:
        """Whether somebody may have written to the buffer or put another tensor in its place.

        Small floating-point buffers always may: batch normalisation's kernels write running statistics without
        autograd's version counter, and comparing values would wait for the device.
        """
        if self.owner._buffers.get(self.name) is not self.tensor:
            return True
        if self.tensor is None:
            return False
        statistics = self.tensor.is_floating_point() and self.tensor.numel() <= _STATISTICS
        return statistics or self.tensor._version != self._version

    def restore(self) -> None:
        """Put the tensor and its value back."""
        self.owner._buffers[self.name] = self.tensor
        if self.tensor is not None and self.value is not None:
            with torch.no_grad():
                self.tensor.copy_(self.value)


class BufferLog:
    """The original values of those buffers that may have changed since the log was begun."""

    def __init__(self) -> None:
        self._saved: dict[tuple[int, str], Saved] = {}

    def before(self, modules: Collection[nn.Module]) -> list[Saved]:
        """Save what a pass through these modules might change; hand the answer to `after`."""
        if not modules:
            return []
        fresh = [
            Saved(module, name, tensor)
            for module in modules
            for name, tensor in module._buffers.items()
            if (id(module), name) not in self._saved and not is_constant(tensor)
        ]
        self._saved.update((saved.slot, saved) for saved in fresh)
        return fresh

    def after(self, fresh: list[Saved]) -> None:
        """Forget what the pass cannot have changed: a causal mask has a copy only while a pass runs."""
        for saved in fresh:
            if not saved.may_have_changed():
                del self._saved[saved.slot]

    def changed(self) -> list[Saved]:
        """The buffers that may have changed, with their original values."""
        return list(self._saved.values())

    def restore(self) -> None:
        """Give every buffer its original value."""
        for saved in self._saved.values():
            saved.restore()


def is_constant(tensor: Tensor | None) -> bool:
    """Whether nobody can write to a buffer, or it has no value yet that could be saved (a lazy module's)."""
    return tensor is not None and (is_lazy(tensor) or tensor.is_inference())
