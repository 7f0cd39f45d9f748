"""Whether a trunk's second pass is the first one again: compared in the first steps, then trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from mtl_accum._state import HostState
from mtl_accum.editions._engine.batch._pytree import paths
from mtl_accum.editions._engine.graph._versions import version_of
from mtl_accum.editions._engine.replay._fingerprint import Fingerprint

__all__ = ["Comparison", "ReplayError", "Watch", "always_comparing"]

_STEPS = 3  # in which second passes are compared
_INTERNALS = frozenset(vars(nn.Module()))

_ALWAYS: ContextVar[bool] = ContextVar("mtl_accum_always_comparing", default=False)


class ReplayError(RuntimeError):
    """A trunk that has to run again does not compute the same again, so that the gradient would be another one."""


@contextmanager
def always_comparing() -> Iterator[None]:
    """Compare second passes in every step inside the block, not only in a trunk's first ones."""
    token = _ALWAYS.set(True)
    try:
        yield
    finally:
        _ALWAYS.reset(token)


class _Trunk:
    """What the steps so far have shown of a trunk."""

    def __init__(self) -> None:
        self.steps: Counter[str] = Counter()  # by the edition that runs it more than once
        self.draws = False  # from Python's or numpy's global generator


_TRUNKS: WeakKeyDictionary[Any, _Trunk] = WeakKeyDictionary()


class Watch:
    """A step of an edition that runs the trunk more than once.

    A trunk is known by the first module that it reaches, or by its code: a function may be made anew for every step.

    Args:
        function: The trunk.
        modules: All modules that it reaches.
        edition: The edition, whose name is for messages.

    Attributes:
        comparing: Whether later passes are compared with the first one in this step.
    """

    def __init__(self, function: Callable[..., Any], modules: Sequence[nn.Module], edition: object) -> None:
        self.edition = type(edition).__name__
        try:
            self._trunk = _TRUNKS.setdefault(modules[0] if modules else _code(function), _Trunk())
        except TypeError:  # it cannot be referred to weakly, or has no hash
            self._trunk = _Trunk()
        self._trunk.steps[self.edition] += 1
        self.comparing = self._trunk.steps[self.edition] <= _STEPS or _ALWAYS.get()

    @property
    def keeps_host_states(self) -> bool:
        """Whether replays keep the states of Python's and numpy's generators, which takes longer than a small layer."""
        return self.comparing or self._trunk.draws

    def drew(self) -> None:
        """Note that the trunk draws from Python's or numpy's generator."""
        self._trunk.draws = True

    @contextmanager
    def first_passes(self) -> Iterator[None]:
        """Look out for draws from Python's and numpy's generators, where not every replay keeps their states.

        Raises:
            ReplayError: There are some, for the first time, after the steps that are compared.
        """
        if self.keeps_host_states:
            yield
            return
        before = HostState()
        yield
        if not before.same_as(HostState()):
            self.drew()
            raise ReplayError(
                f"{self.edition}: the trunk drew from Python's or numpy's global generator for the first time in step "
                f"{self._trunk.steps[self.edition]}, and that generator's state was not kept; call zero_grad and run "
                "the step again"
            )


def _code(function: Callable[..., Any]) -> Any:
    return getattr(function, "__code__", function)


class Comparison:
    """The first pass of a trunk, summed up, to hold later passes against.

    Args:
        modules: Of the trunk, for the attributes that a message names.
        edition: The name of the edition that runs the trunk again.
    """

    def __init__(self, modules: Sequence[nn.Module], edition: str) -> None:
        self._modules, self._edition = modules, edition
        self._attributes = {id(module): _attributes(module) for module in modules}
        self._first: Fingerprint | None = None
        self._written = ""

    @contextmanager
    def watching(self, batch: Any) -> Iterator[None]:
        """Note whether a pass writes into its batch."""
        before = _versions(batch)
        yield
        written = [path for path, version in _versions(batch).items() if before.get(path) != version]
        self._written = self._written or ", ".join(written)

    def add(self, outputs: Any) -> None:
        """Sum up the first pass, or compare a later one with it.

        Raises:
            ReplayError: They differ by more than rounding, or a pass has written into the batch.
        """
        now = Fingerprint(outputs)
        if self._first is None:
            self._first = now
            return
        if self._written:
            raise ReplayError(
                f"{self._edition}: the trunk writes into its batch ({self._written}), so that its second pass starts "
                "from another one; write into a copy, or use Split(), which runs the trunk once"
            )
        if self._first.differs(now):
            raise ReplayError(
                f"{self._edition}: the trunk's second pass computed something else than its first, so that the "
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
    """Return how often each tensor of a batch has been written to, by its path."""
    tensors = ((path, leaf) for path, leaf in paths(batch, "batch") if isinstance(leaf, Tensor))
    return {path: version_of(leaf) for path, leaf in tensors}


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return what tells whether an attribute changed: tensors by object and version, plain values as they are."""
    return {
        name: (id(value), version_of(value) if isinstance(value, Tensor) else 0)
        for name, value in vars(module).items()
        if name not in _INTERNALS
    }
