"""Functions that `torch.compile` does not trace: a graph break instead of an attempt to trace autograd's engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from torch._compile import (
    _disable_dynamo,  # torch.compiler.disable, without importing the compiler until the first call
)

__all__ = ["eager"]

P = ParamSpec("P")
R = TypeVar("R")


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """Keep a function, and what it calls, out of compiled graphs; functions compiled on their own stay so."""
    return cast(Callable[P, R], _disable_dynamo(function))
