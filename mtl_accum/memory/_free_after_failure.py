"""Recovery from out-of-memory: freeing memory that remains in use after the step's own tensors are gone."""

from __future__ import annotations

import torch

from mtl_accum.memory._malloc import release_freed_memory

__all__ = ["free_after_failure"]

_ONEDNN = ("could not create a primitive", "could not execute a primitive")

with torch.enable_grad():  # created before the graph of any step
    _LEAF = torch.zeros((), requires_grad=True, device="cpu")
    _OLDEST = _LEAF * 1


def free_after_failure(device: torch.device, reason: str) -> None:
    """Free memory that a failed step still occupies; call it after the `except` block.

    Args:
        device: Device of the step.
        reason: Message of the exception.
    """
    _drop_failed_backward()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    release_freed_memory()
    if any(message in reason for message in _ONEDNN):
        # oneDNN's code generator keeps the error of a failed allocation: later kernels fail too, or the process dies.
        torch.backends.mkldnn.set_flags(False)


def _drop_failed_backward() -> None:
    """Empty autograd's CPU queue, whose nodes keep the failed graph alive.

    The engine runs the youngest node first and stops when the requested root is done. The root here is older than all
    nodes of the failed graph, so these are removed first.
    """
    torch.autograd.grad(_OLDEST, _LEAF, retain_graph=True)
