"""Backward passes outside of autocast, as torch recommends."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch

__all__ = ["without_autocast"]

_NOTHING = nullcontext()


def without_autocast() -> AbstractContextManager[object]:
    """Switch off the autocast that is active around the caller, if there is any.

    An edition may run backward passes in a forward that a framework runs under autocast. Code that switched autocast
    off (a loss in float32) would then have its backward under autocast.
    """
    if not torch._C._is_any_autocast_enabled():
        return _NOTHING
    stack = ExitStack()
    for device in ("cpu", "cuda", "xpu", "mps"):
        if torch.is_autocast_enabled(device):
            stack.enter_context(torch.autocast(device, enabled=False))
    return stack
