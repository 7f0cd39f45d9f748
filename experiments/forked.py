"""A fresh process that finds its modules imported: studies with hundreds of trials start in milliseconds."""

from __future__ import annotations

from multiprocessing.context import BaseContext
from typing import Any

from mtl_accum.measure import FreshProcess
from mtl_accum.testing import ForkServer

__all__ = ["context", "forked"]

_SERVER = ForkServer("experiments.study", "experiments.batch.trial")


def context() -> BaseContext:
    """Return the context of processes that are forked from one which has imported the studies' modules."""
    return _SERVER


def forked(subject: Any) -> FreshProcess:
    """Return a fresh process from that context.

    Args:
        subject: Any object that pickles.
    """
    return FreshProcess(subject, context())
