"""Replays of a function: later passes draw the same random numbers, read the same buffers, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from mtl_accum._state import BufferSnapshot, RngState, SavedBuffer
from mtl_accum.editions._engine.replay._second_pass import Comparison, Watch
from mtl_accum.editions._engine.replay._witness import Witness

__all__ = ["Replay"]


class Replay:
    """Runs the first pass of a function live and every later one as a copy of it.

    Under `SummedLoss` the trunk runs once: it draws its random numbers once and changes its buffers once. A later pass
    therefore starts from the generator states and the buffers of the first one, and what it draws and changes is
    forgotten. Its buffers are clones, put into `module._buffers`: writing into the real ones between a forward and its
    backward would trip autograd's version check. Checkpointed layers run again in the backward: where the first pass
    had a backward of its own, that of a later pass belongs to the replay too.

    Args:
        modules: Modules whose buffers the function may change.
        watch: Step that runs the function more than once.
    """

    def __init__(self, modules: Sequence[nn.Module], watch: Watch) -> None:
        self._modules, self._watch = modules, watch
        self._start: RngState | None = None
        self._saved: list[SavedBuffer] = []
        self._aside: list[Tensor | None] = []  # one for each saved buffer during a replay, else none
        self._comparison = Comparison(modules, watch.edition) if watch.comparing else None

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Surround a pass: the first one is live, later ones are replays."""
        if self._start is None:
            self._start, buffers = RngState.capture(), BufferSnapshot(self._modules)
            yield
            buffers.discard_unchanged(buffers.saved)
            self._saved = buffers.saved
            return
        before = RngState.capture()
        self._start.restore(before)
        try:
            if self._saved:
                clones = {id(buffer.tensor): _clone(buffer.value) for buffer in self._saved}  # shared ones too
                self._aside = [clones[id(buffer.tensor)] for buffer in self._saved]
                with self.backward():
                    yield
            else:
                yield
        finally:
            before.restore()

    def run(self, function: Callable[[], Any], batch: Any = None) -> Any:
        """Run a pass, and compare a later one with the first in a trunk's first steps.

        Args:
            function: Pass to run.
            batch: Batch of the pass; writes to it are refused where the pass runs again.

        Raises:
            ReplayError: See `Comparison`.
        """
        watching = nullcontext() if self._comparison is None else self._comparison.watching(batch)
        with watching, self.forward():
            outputs = function()
        self.compare(outputs)
        return outputs

    def witness(self, inputs: Sequence[Tensor]) -> Witness:
        """Return a record of the tensors that later passes read, without the buffers that are restored before them.

        Args:
            inputs: Tensors whose versions autograd does not compare.
        """
        return Witness(self._modules, {buffer.slot for buffer in self._saved}, inputs, self._watch.edition)

    def compare(self, outputs: Any) -> None:
        """Record the outputs of the first pass, or compare those of a later one, in a trunk's first steps."""
        if self._comparison is not None:
            self._comparison.add(outputs)

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Surround the backward of the latest pass: the buffers of a replay are in place."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for index, (saved, other) in enumerate(zip(self._saved, self._aside, strict=False)):
            buffers = saved.owner._buffers
            buffers[saved.name], self._aside[index] = other, buffers[saved.name]


def _clone(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.clone()
