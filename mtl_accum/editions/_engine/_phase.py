"""Phases of a training step, for meters: free of cost without a listener."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal, Protocol

__all__ = ["NO_PHASE", "Kind", "Listener", "has_listeners", "label", "listen", "phase"]

Kind = Literal["forward", "backward", "optimizer", "zero_grad"]


class Listener(Protocol):
    """Receiver of the phases of a step."""

    def begin(self, name: str, kind: Kind) -> None:
        """Note the beginning of a phase."""
        ...

    def end(self) -> None:
        """Note the end of the phase that began last, also by an exception."""
        ...


# Read in the thread that runs the step; autograd's own threads have no phases.
_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
NO_PHASE = nullcontext()


def has_listeners() -> bool:
    """Return whether there is a listener: to be checked before a name is formatted in a loop that must cost nothing."""
    return bool(_LISTENERS.get())


def phase(name: str, kind: Kind) -> AbstractContextManager[None]:
    """Mark a part of a training step for listeners; phases do not nest.

    Editions mark their own; a training loop adds the rest::

        with phase("optimizer", "optimizer"):
            optimizer.step()

    Args:
        name: Name of the part: "trunk", "head digit", ...
        kind: Kind of work: "forward", "backward", "optimizer" or "zero_grad".
    """
    listeners = _LISTENERS.get()
    return _announced(listeners, name, kind) if listeners else NO_PHASE


def label(name: str, kind: str) -> str:
    """Return the name of a phase for people: "head digit backward", "optimizer"."""
    return name if name == kind else f"{name} {kind}"


@contextmanager
def listen(listener: Listener, *, alone: bool = False) -> Iterator[None]:
    """Report the phases inside of the block, in this thread, to a listener; to no other one if `alone`."""
    token = _LISTENERS.set((*(() if alone else _LISTENERS.get()), listener))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


@contextmanager
def _announced(listeners: tuple[Listener, ...], name: str, kind: Kind) -> Iterator[None]:
    for listener in listeners:
        listener.begin(name, kind)
    try:
        yield
    finally:
        for listener in listeners:
            listener.end()
