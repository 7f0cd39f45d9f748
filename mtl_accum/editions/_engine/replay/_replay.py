"""Later passes of the same function: the same random numbers, the same buffers, and no trace afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from mtl_accum._state import BufferLog, HostState, RandomState, Saved
from mtl_accum.editions._engine.replay._second_pass import Comparison, Watch
from mtl_accum.editions._engine.replay._witness import Witness

__all__ = ["Replay"]


class Replay:
    """Runs the first pass of a function live and every later one as a copy of it.

    Under `SummedLoss` the trunk runs once: it draws its random numbers once and changes its buffers once.
    A later pass therefore starts from the generator states and the buffers that the first one found, and what
    it draws and changes is forgotten. Its buffers are clones, seen through `module._buffers`: writing into the
    real ones between a forward and its backward would trip autograd's version check. Checkpointed layers run
    again in the backward. Where the first pass had a backward of its own, this one's belongs to the replay too.

    Args:
        modules: whose buffers the function may change.
        watch: the step that runs it more than once.
    """

    def __init__(self, modules: Sequence[nn.Module], watch: Watch) -> None:
        self._modules, self._watch = modules, watch
        self._start: RandomState | None = None
        self._host: HostState | None = None  # None where nothing is drawn from Python's and numpy's generators
        self._before: list[Saved] = []
        self._aside: list[Tensor | None] = []  # one for each of _before during a replay, else none
        self._comparison = Comparison(modules, watch.edition) if watch.comparing else None

    @contextmanager
    def forward(self) -> Iterator[None]:
        """A pass: live the first time, afterwards a replay."""
        now = RandomState()
        if self._start is None:
            host = HostState() if self._watch.keeps_host_states else None
            self._start, log = now, BufferLog()
            fresh = log.before(self._modules)
            yield
            log.after(fresh)
            self._before = log.changed()
            if host is not None and not host.same_as(HostState()):
                self._host = host
                self._watch.drew()
            return
        host = HostState() if self._host is not None else None
        clones = {id(saved.tensor): _clone(saved.value) for saved in self._before}  # shared ones too
        self._aside = [clones[id(saved.tensor)] for saved in self._before]
        self._start.restore()
        if self._host is not None:
            self._host.restore()
        try:
            with self.backward():
                yield
        finally:
            now.restore()
            if host is not None:
                host.restore()

    def run(self, function: Callable[[], Any], batch: Any = None) -> Any:
        """Run a pass; in a trunk's first steps, hold a later one against the first.

        Args:
            function: The pass.
            batch: What it must not write into, if it is to run again.

        Raises:
            ReplayError: See `Comparison`.
        """
        watching = nullcontext() if self._comparison is None else self._comparison.watching(batch)
        with watching, self.forward():
            outputs = function()
        self.compare(outputs)
        return outputs

    def witness(self, inputs: Sequence[Tensor]) -> Witness:
        """Return what later passes read besides what is put back before them.

        Args:
            inputs: Tensors that nobody else compares.
        """
        return Witness(self._modules, {saved.slot for saved in self._before}, inputs, self._watch.edition)

    def compare(self, outputs: Any) -> None:
        """Note what the first pass computed, or hold a later one against it, in a trunk's first steps."""
        if self._comparison is not None:
            self._comparison.add(outputs)

    @contextmanager
    def backward(self) -> Iterator[None]:
        """The backward of the latest pass; of a replay, with its buffers in place."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for index, (saved, other) in enumerate(zip(self._before, self._aside, strict=False)):
            buffers = saved.owner._buffers
            buffers[saved.name], self._aside[index] = other, buffers[saved.name]


def _clone(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.clone()
