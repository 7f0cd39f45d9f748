"""What has to be freed after a step that ran out of memory, besides the step's own tensors."""

from __future__ import annotations

import torch

from mtl_accum.memory._malloc import release_freed_memory

__all__ = ["recover"]

_ONEDNN = ("could not create a primitive", "could not execute a primitive")

with torch.enable_grad():  # older than any step's graph
    _LEAF = torch.zeros((), requires_grad=True, device="cpu")
    _OLDEST = _LEAF * 1


def recover(device: torch.device, reason: str) -> None:
    """Free what a failed step leaves behind, once its exception is gone.

    Args:
        device: Where the step ran.
        reason: Message of the exception.
    """
    _drop_failed_backward()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    release_freed_memory()
    if any(words in reason for words in _ONEDNN):
        # Its code generator keeps the error of a failed allocation: all later kernels fail too, or the process dies.
        torch.backends.mkldnn.set_flags(False)


def _drop_failed_backward() -> None:
    """Empty the CPU's queue of backward nodes, which holds on to the failed graph until they are taken from it.

    The engine takes the youngest node first, and stops when the root that was asked for is done: an older one than
    all of the failed graph's.
    """
    torch.autograd.grad(_OLDEST, _LEAF, retain_graph=True)
