"""Recognition of out-of-memory errors."""

from __future__ import annotations

import torch

from mtl_accum.memory._host_memory import host_memory

__all__ = ["is_out_of_memory"]

# Messages of plain RuntimeErrors from the CPU's allocator, and from libraries that allocate through the driver.
_MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
# Ambiguous messages of libraries: no memory for a workspace, or no kernel for a shape.
_AMBIGUOUS_ON_HOST = (  # oneDNN
    "could not create a primitive",
    "could not create a memory",
    "could not execute a primitive",
    "can't start new thread",  # a thread's stack is memory too
)
_AMBIGUOUS_ON_DEVICE = (
    "nable to find an engine",  # "Unable to ..." or "FIND was unable to ..."
    "CUDNN_STATUS_NOT_SUPPORTED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
)
# Memory counts as exhausted below this share of the total, or below this many bytes: a workspace may need more.
_EXHAUSTED_SHARE, _EXHAUSTED_BYTES = 0.1, 256 << 20


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device or the host has no memory left.

    Call it inside the `except` block: the error's traceback still holds the tensors that filled the memory.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    if any(message in text for message in _MESSAGES):
        return True
    if any(message in text for message in _AMBIGUOUS_ON_HOST):
        return _is_exhausted(*host_memory())
    if any(message in text for message in _AMBIGUOUS_ON_DEVICE) and torch.cuda.is_available():
        return _is_exhausted(*_device_memory())
    return False


def _device_memory() -> tuple[int, int]:
    """Return free bytes of the current CUDA device, including those cached by the allocator, and its total bytes."""
    free, total = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated(), total


def _is_exhausted(free: int, total: int) -> bool:
    return free < max(_EXHAUSTED_SHARE * total, _EXHAUSTED_BYTES)
