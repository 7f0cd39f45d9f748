"""Telling that memory ran out from all other errors."""

from __future__ import annotations

import torch

from mtl_accum.memory._host_memory import host_memory

__all__ = ["is_out_of_memory"]

# The CPU's allocator, and libraries that ask the driver themselves, raise a plain RuntimeError.
_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
# What libraries say where they got no memory for a workspace, and where they have no kernel for a shape.
_OF_THE_HOST = (  # oneDNN
    "could not create a primitive",
    "could not create a memory",
    "could not execute a primitive",
    "can't start new thread",  # a thread's stack is memory too
)
_OF_THE_DEVICE = (
    "nable to find an engine",  # "Unable to ..." or "FIND was unable to ..."
    "CUDNN_STATUS_NOT_SUPPORTED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
)
_SHARE, _LITTLE = 0.1, 256 << 20  # of the whole, and bytes: a workspace may be larger than what is left then


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that a device, or the host, has no memory left.

    Call it where the error is caught: its traceback still holds what filled the memory.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    if any(words in text for words in _WORDS):
        return True
    if any(words in text for words in _OF_THE_HOST):
        return _is_little(*host_memory())
    if any(words in text for words in _OF_THE_DEVICE) and torch.cuda.is_available():
        return _is_little(*_device_memory())
    return False


def _device_memory() -> tuple[int, int]:
    """Free bytes of the present CUDA device, those that the allocator keeps for itself too, and all of them."""
    free, total = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated(), total


def _is_little(free: int, total: int) -> bool:
    return free < max(_SHARE * total, _LITTLE)
