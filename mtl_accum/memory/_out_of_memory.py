"""Telling that memory ran out from all other errors."""

from __future__ import annotations

import torch

__all__ = ["is_out_of_memory"]

# The CPU's allocator, and libraries that ask the driver themselves, raise a plain RuntimeError.
_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the host, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
