"""Phases of a training step: announced by whoever runs it, heard by meters, free when nobody listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal, Protocol

__all__ = ["NO_PHASE", "Kind", "Listener", "has_listeners", "label", "listen", "phase"]

Kind = Literal["forward", "backward", "optimizer", "zero_grad"]


class Listener(Protocol):
    """Somebody who wants to know which phase a step is in."""

    def begin(self, name: str, kind: Kind) -> None:
        """A phase begins."""
        ...

    def end(self) -> None:
        """The phase that began last is over, by an exception too."""
        ...


# Read in the thread that runs the step; autograd's own threads never announce anything.
_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
NO_PHASE = nullcontext()


def has_listeners() -> bool:
    """Whether anybody listens: ask before making up a name in a loop that must cost nothing."""
    return bool(_LISTENERS.get())


def phase(name: str, kind: Kind) -> AbstractContextManager[None]:
    """A part of a training step, for those who listen; phases do not nest.

    Editions announce theirs; a loop of one's own adds what they cannot know::

        with phase("optimizer", "optimizer"):
            optimizer.step()

    Args:
        name: what runs: "trunk", "head digit", ...
        kind: "forward", "backward", "optimizer" or "zero_grad".
    """
    listeners = _LISTENERS.get()
    return _announced(listeners, name, kind) if listeners else NO_PHASE


def label(name: str, kind: str) -> str:
    """What a person calls a phase: "head digit backward", "optimizer"."""
    return name if name == kind else f"{name} {kind}"


@contextmanager
def listen(listener: Listener, *, alone: bool = False) -> Iterator[None]:
    """Tell somebody about the phases inside the block, in this thread; nobody else, if alone."""
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
