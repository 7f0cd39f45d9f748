"""Later passes of the same function: the same random numbers, the same buffers, and no trace afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mtl_accum.editions._buffers import BufferLog, Saved

__all__ = ["RandomState", "Replay"]


class RandomState:
    """The states of torch's default generators, when this was made.

    Args:
        states: others than those of now.

    Attributes:
        states: of the CPU's, then of every CUDA device's.
    """

    def __init__(self, states: Sequence[Tensor] | None = None) -> None:
        cuda = torch.cuda.get_rng_state_all() if states is None and torch.cuda.is_initialized() else []
        self.states = [torch.get_rng_state(), *cuda] if states is None else list(states)

    def restore(self) -> None:
        """Put every generator that there is now back to its state."""
        cpu, *cuda = self.states
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda[: torch.cuda.device_count()])


class Replay:
    """Runs the first pass of a function live and every later one as a copy of it.

    Under `SummedLoss` the trunk runs once: it draws its random numbers once and changes its buffers once.
    A later pass therefore starts from the generator states and the buffers that the first one found, and what
    it draws and changes is forgotten. Its buffers are clones, seen through `module._buffers`: writing into the
    real ones between a forward and its backward would trip autograd's version check. Checkpointed layers run
    again in the backward. Where the first pass had a backward of its own, this one's belongs to the replay too.

    Args:
        modules: whose buffers the function may change.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = modules
        self._start: RandomState | None = None
        self._before: list[Saved] = []
        self._aside: list[Tensor | None] = []  # one for each of _before during a replay, else none

    @contextmanager
    def forward(self) -> Iterator[None]:
        """A pass: live the first time, afterwards a replay."""
        now = RandomState()
        if self._start is None:
            self._start, log = now, BufferLog()
            fresh = log.before(self._modules)
            yield
            log.after(fresh)
            self._before = log.changed()
            return
        clones = {id(saved.tensor): _clone(saved.value) for saved in self._before}  # shared ones too
        self._aside = [clones[id(saved.tensor)] for saved in self._before]
        self._start.restore()
        try:
            with self.backward():
                yield
        finally:
            now.restore()

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
