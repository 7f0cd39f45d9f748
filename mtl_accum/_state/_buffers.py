"""Snapshots of module buffers: which tensors modules hold, and their values."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["BufferSnapshot", "SavedBuffer"]

_STATISTICS = 65536  # elements; more than a layer has channels


class SavedBuffer:
    """One buffer of a module, and its value at a moment.

    Args:
        owner: Module that holds the buffer.
        name: Name of the buffer in the module.
        tensor: Tensor that the module holds under this name, or None.

    Attributes:
        value: Copy of the tensor.
    """

    def __init__(self, owner: nn.Module, name: str, tensor: Tensor | None) -> None:
        self.owner, self.name, self.tensor = owner, name, tensor
        self.value = None if tensor is None else tensor.detach().clone()
        self._version = 0 if tensor is None else tensor._version

    @property
    def slot(self) -> tuple[int, str]:
        """Identity of the buffer: the id of its module, and its name."""
        return id(self.owner), self.name

    def may_have_changed(self) -> bool:
        """Return whether the buffer may have been written to, or replaced by another tensor.

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
        """Put the tensor back into the module, with its value."""
        self.owner._buffers[self.name] = self.tensor
        if self.tensor is not None and self.value is not None:
            with torch.no_grad():
                self.tensor.copy_(self.value)


class BufferSnapshot:
    """Buffers of modules, each as it was when it was added.

    Args:
        modules: Modules whose buffers to save at once; submodules are not searched.
    """

    def __init__(self, modules: Iterable[nn.Module] = ()) -> None:
        self._saved: dict[tuple[int, str], SavedBuffer] = {}
        self.add(modules)

    @property
    def saved(self) -> list[SavedBuffer]:
        """All buffers of the snapshot."""
        return list(self._saved.values())

    def add(self, modules: Iterable[nn.Module]) -> list[SavedBuffer]:
        """Save the buffers that are not saved yet.

        Returns:
            These buffers, for `discard_unchanged`.
        """
        new = [
            SavedBuffer(module, name, tensor)
            for module, name, tensor in _slots(modules)
            if (id(module), name) not in self._saved
        ]
        self._saved.update((buffer.slot, buffer) for buffer in new)
        return new

    def discard_unchanged(self, buffers: Iterable[SavedBuffer]) -> None:
        """Drop those buffers that cannot have changed: a causal mask has a copy only while a pass runs."""
        for buffer in buffers:
            if not buffer.may_have_changed():
                del self._saved[buffer.slot]

    def renew(self, modules: Collection[nn.Module]) -> None:
        """Save the buffers of now in place of all others.

        The copies of the last time are filled again where modules hold the same tensors, so this is cheap enough for
        every step.
        """
        slots = list(_slots(modules))
        saved = self._saved.values()
        if len(slots) != len(saved) or not all(
            buffer.tensor is tensor and buffer.owner is module and buffer.name == name
            for buffer, (module, name, tensor) in zip(saved, slots, strict=True)
        ):
            self._saved = {}
            self.add(modules)
            return
        copies = [buffer.value for buffer in saved if buffer.value is not None]
        if copies:
            with torch.no_grad():
                torch._foreach_copy_(copies, [tensor for *_, tensor in slots if tensor is not None])

    def restore(self) -> None:
        """Put every buffer back."""
        for buffer in self._saved.values():
            buffer.restore()


def _slots(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, str, Tensor | None]]:
    """Return the buffers that can change: no tensor of inference mode, and none without a value yet (lazy modules)."""
    return [
        (module, name, tensor)
        for module in modules
        for name, tensor in module._buffers.items()
        if tensor is None or not (is_lazy(tensor) or tensor.is_inference())
    ]
