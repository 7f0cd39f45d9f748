"""Backward passes run outside of autocast, as torch's documentation has it for a plain loop."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch

__all__ = ["without_autocast"]

_NOTHING = nullcontext()


def without_autocast() -> AbstractContextManager[object]:
    """Switch off the autocast that is active around the caller, if there is any.

    An edition runs backward passes inside a forward that a framework has put under autocast. There, the backward of
    code that switched autocast off for itself (a loss in float32) would run under it.
    """
    if not torch._C._is_any_autocast_enabled():
        return _NOTHING
    stack = ExitStack()
    for device in ("cpu", "cuda", "xpu", "mps"):
        if torch.is_autocast_enabled(device):
            stack.enter_context(torch.autocast(device, enabled=False))
    return stack
