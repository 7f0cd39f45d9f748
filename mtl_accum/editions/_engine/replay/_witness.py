"""Versions of the tensors that a second pass reads: whether they still are those of the first pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mtl_accum.editions._engine.graph._versions import version_of
from mtl_accum.editions._engine.ranks._agreement import is_distributed
from mtl_accum.editions._engine.replay._second_pass import ReplayError

__all__ = ["Witness"]


class Witness:
    """Record of the parameters, constant buffers and inputs that a first pass has read.

    Autograd compares the versions of the tensors it saves; a pass that runs again saves none.

    Args:
        modules: All modules that the pass reaches.
        changing: Buffers, by owner's id and name, that are restored before a second pass.
        inputs: Tensors of the pass's inputs.
        edition: Name of the edition for messages.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        changing: Collection[tuple[int, str]],
        inputs: Sequence[Tensor],
        edition: str,
    ) -> None:
        self._modules, self._changing, self._edition = modules, changing, edition
        self._inputs = [(tensor, _state(tensor)) for tensor in inputs]
        self._tensors = self._read()
        self._states = [_state(tensor) for _, _, tensor in self._tensors]

    def require_unchanged(self) -> None:
        """Raise unless the modules hold the same tensors with the same values.

        Raises:
            ReplayError: A parameter or buffer was replaced, or written to; or an input was written to.
        """
        if any(_state(tensor) != before for tensor, before in self._inputs):
            raise ReplayError(
                f"{self._edition}: a tensor of the batch was written to between the trunk's pass and its backward, in "
                "which the trunk runs again; write into a copy, call backward first, or use Split(), which runs the "
                "trunk once"
            )
        # FSDP2 swaps whole parameters for their shards between the passes.
        present = self._tensors if is_distributed() else self._read()
        changed = [
            f"{type(module).__name__}.{name}"
            for (module, name, tensor), (_, _, other), before in zip(self._tensors, present, self._states, strict=False)
            if other is not tensor or _state(tensor) != before
        ]
        if changed or len(present) != len(self._tensors):
            raise ReplayError(
                f"{self._edition}: weights changed between the loss and its backward, in which the trunk runs again "
                f"({', '.join(changed[:5])}); call backward before optimizer.step() and before weights are swapped, or "
                "use Split(), which runs the trunk once"
            )

    def _read(self) -> list[tuple[nn.Module, str, Tensor]]:
        return [
            (module, name, tensor)
            for module in self._modules
            for name, tensor in (*module._parameters.items(), *module._buffers.items())
            if tensor is not None and (id(module), name) not in self._changing and not is_lazy(tensor)
        ]


def _state(tensor: Tensor) -> tuple[int, int]:
    """Return values that change with a write, and with an assignment to `.data`."""
    plain = tensor.layout is torch.strided and not is_distributed()
    return version_of(tensor), tensor.untyped_storage()._cdata if plain else 0
