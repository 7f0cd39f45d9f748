"""Random number generator state: torch (CPU, CUDA), Python, numpy and a data loader's own generator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mtl_accum._state._host_rng import numpy_state, python_state, set_numpy_state, set_python_state

__all__ = ["RngState", "same_random_numbers"]


class RngState:
    """States of all global generators, and of the generator of a data loader.

    To capture and to restore takes microseconds where nothing was drawn in between.

    Args:
        states: States of torch's default generators: the CPU's, then every CUDA device's.
        python: State of Python's generator.
        numpy: State of numpy's generator; None without numpy.
        generator: Generator of a loader; None if it has none of its own.
        own: State of that generator.
    """

    def __init__(
        self,
        states: Sequence[Tensor],
        python: Any,
        numpy: Any,
        generator: torch.Generator | None = None,
        own: Tensor | None = None,
    ) -> None:
        self._torch, self._python, self._numpy = states, python, numpy
        self._generator, self._own = generator, own

    @classmethod
    def capture(cls, loader: object = None) -> RngState:
        """Return the present states.

        Args:
            loader: Data loader whose attribute `generator` may be a generator of its own.
        """
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        generator = None if loader is None else _generator_of(loader)
        own = None if generator is None else generator.get_state()
        return cls([torch.get_rng_state(), *cuda], python_state(), numpy_state(), generator, own)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], loader: object = None) -> RngState:
        """Return the states that `state_dict` has described.

        Args:
            state: Result of `state_dict`.
            loader: Data loader whose generator is to be restored.
        """
        process = state["process"]
        return cls(process["torch"], process["python"], process["numpy"], _generator_of(loader), state["own"])

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values by name, for a checkpoint."""
        process = {"torch": self._torch, "python": self._python, "numpy": self._numpy}
        return {"process": process, "own": self._own}

    def restore(self, present: RngState | None = None) -> None:
        """Set every generator to its state.

        Args:
            present: Present states, if they have just been captured: then these are not read again.
        """
        cpu, *cuda = self._torch
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda[: torch.cuda.device_count()])
        if present is None or present._python is not self._python:
            set_python_state(self._python)
        if self._numpy is not None and (present is None or present._numpy is not self._numpy):
            set_numpy_state(self._numpy)
        if self._generator is not None and self._own is not None:
            self._generator.set_state(self._own)

    def __eq__(self, other: object) -> bool:
        """Return whether every generator is in the same state."""
        if not isinstance(other, RngState):
            return NotImplemented
        return (
            _equal(self._python, other._python)
            and _equal(self._numpy, other._numpy)
            and _equal([*self._torch, self._own], [*other._torch, other._own])
        )

    __hash__ = None  # type: ignore[assignment]


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Restore every global generator at the end of the block."""
    before = RngState.capture()
    try:
        yield
    finally:
        before.restore()


def _generator_of(loader: object) -> torch.Generator | None:
    generator = getattr(loader, "generator", None)  # of torch's DataLoader
    return generator if isinstance(generator, torch.Generator) else None


def _equal(one: Any, other: Any) -> bool:
    """Compare states: nested containers of numbers, tensors and arrays of numpy."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return bool((one == other).all()) if hasattr(one, "all") else bool(one == other)
