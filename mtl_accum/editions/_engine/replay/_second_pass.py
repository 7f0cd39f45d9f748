"""Comparison of a trunk's second pass with its first: in the first steps of an edition, later passes are trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from mtl_accum.editions._engine.batch._pytree import paths
from mtl_accum.editions._engine.graph._versions import version_of
from mtl_accum.editions._engine.replay._fingerprint import Fingerprint

__all__ = ["Comparison", "ReplayError", "Watch", "always_comparing"]

_STEPS = 3  # in which second passes are compared
_INTERNALS = frozenset(vars(nn.Module()))

_ALWAYS: ContextVar[bool] = ContextVar("mtl_accum_always_comparing", default=False)


class ReplayError(RuntimeError):
    """A trunk that runs again computes another result than before: the gradient would be wrong."""


@contextmanager
def always_comparing() -> Iterator[None]:
    """Compare second passes in every step inside the block, not only in the first steps of a trunk."""
    token = _ALWAYS.set(True)
    try:
        yield
    finally:
        _ALWAYS.reset(token)


# Steps so far of a trunk, by the edition that runs it more than once.
_STEPS_OF: WeakKeyDictionary[Any, Counter[str]] = WeakKeyDictionary()


class Watch:
    """A step of an edition that runs the trunk more than once.

    A trunk is identified by the first module that it reaches, or by its code: a function may be new in every step.

    Args:
        function: Trunk.
        modules: All modules that it reaches.
        edition: Edition, whose name is for messages.

    Attributes:
        comparing: Whether later passes are compared with the first one in this step.
    """

    def __init__(self, function: Callable[..., Any], modules: Sequence[nn.Module], edition: object) -> None:
        self.edition = type(edition).__name__
        try:
            steps = _STEPS_OF.setdefault(modules[0] if modules else _code(function), Counter())
        except TypeError:  # there is no weak reference to it, or no hash
            steps = Counter()
        steps[self.edition] += 1
        self.comparing = steps[self.edition] <= _STEPS or _ALWAYS.get()


def _code(function: Callable[..., Any]) -> Any:
    return getattr(function, "__code__", function)


class Comparison:
    """Fingerprint of the first pass of a trunk, to compare later passes with.

    Args:
        modules: Modules of the trunk, whose attributes a message names.
        edition: Name of the edition that runs the trunk again.
    """

    def __init__(self, modules: Sequence[nn.Module], edition: str) -> None:
        self._modules, self._edition = modules, edition
        self._attributes = {id(module): _attributes(module) for module in modules}
        self._first: Fingerprint | None = None
        self._written = ""

    @contextmanager
    def watching(self, batch: Any) -> Iterator[None]:
        """Record whether a pass in the block writes into its batch."""
        before = _versions(batch)
        yield
        written = [path for path, version in _versions(batch).items() if before.get(path) != version]
        self._written = self._written or ", ".join(written)

    def add(self, outputs: Any) -> None:
        """Record the outputs of the first pass, or compare those of a later one.

        Raises:
            ReplayError: They differ by more than rounding, or a pass has written into the batch.
        """
        fingerprint = Fingerprint(outputs)
        if self._first is None:
            self._first = fingerprint
            return
        if self._written:
            raise ReplayError(
                f"{self._edition}: the trunk writes into its batch ({self._written}), so its second pass starts "
                "from another one; write into a copy, or use Split(), which runs the trunk once"
            )
        if self._first.differs(fingerprint):
            raise ReplayError(
                f"{self._edition}: the trunk's second pass computed something else than its first, so the "
                f"gradient would be another one; {self._cause()}. Split() runs the trunk once"
            )

    def _cause(self) -> str:
        changed = [
            f"{type(module).__name__}.{name}"
            for module in self._modules
            for name, value in _attributes(module).items()
            if self._attributes[id(module)].get(name) != value
        ]
        if changed:
            return f"it keeps state in attributes that changed since ({', '.join(changed[:5])})"
        return (
            "it keeps state outside of its buffers, writes into its batch, or draws from a generator that other code "
            "(another thread, a generator of its own) draws from too"
        )


def _versions(batch: Any) -> dict[str, int]:
    """Return the number of writes to each tensor of a batch, by its path."""
    tensors = ((path, leaf) for path, leaf in paths(batch, "batch") if isinstance(leaf, Tensor))
    return {path: version_of(leaf) for path, leaf in tensors}


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return the identity of every attribute, and the version of a tensor, to detect changes."""
    return {
        name: (id(value), version_of(value) if isinstance(value, Tensor) else 0)
        for name, value in vars(module).items()
        if name not in _INTERNALS
    }
