"""Context around every forward pass of the trunk: checkpointing, offloading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from mtl_accum.editions._engine._types import Trunk

__all__ = ["Inside", "around_trunk", "current_around", "run_trunk"]

Around = Callable[[Trunk, Any], Any]  # (trunk, batch) -> representation


def _plain(trunk: Trunk, batch: Any) -> Any:
    return trunk(batch)


# Read in the thread that runs the step.
_AROUND: ContextVar[Around] = ContextVar("mtl_accum_around_trunk", default=_plain)


@contextmanager
def around_trunk(around: Around) -> Iterator[None]:
    """Run the trunk's forward passes inside of the block through a function of the trunk and the batch."""
    outer = _AROUND.get()
    token = _AROUND.set(lambda trunk, batch: outer(partial(around, trunk), batch))
    try:
        yield
    finally:
        _AROUND.reset(token)


class Inside:
    """Marker of a trunk that applies the function of `around_trunk` inside of itself."""


def current_around() -> Around:
    """Return the function that runs the trunk in the blocks around the caller."""
    return _AROUND.get()


def run_trunk(trunk: Trunk, batch: Any) -> Any:
    """Return the representation of a batch, through the blocks around the caller."""
    return trunk(batch) if isinstance(trunk, Inside) else _AROUND.get()(trunk, batch)
