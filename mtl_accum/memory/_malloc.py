"""The C allocator's two habits: keep freed memory (fast) or give it back at once (honest to weigh)."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["give_back_freed_memory", "keep_freed_memory", "release_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # the names of glibc's mallopt
_LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; glibc refuses more


def keep_freed_memory() -> bool:
    """Keep freed blocks for the next step, as the CUDA allocator does; say whether that could be done.

    glibc hands large blocks back to the system and takes them anew, page by page: about a fifth of a
    convolutional step's time on the CPU, and more of it the more often an edition frees a head.
    """
    return _set({_MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD, _TRIM_THRESHOLD: 2**31 - 1})


def give_back_freed_memory() -> bool:
    """Give every large block back when it is freed, so that resident memory is what is in use.

    For a fresh process: blocks from before stay as they are. Makes a step up to two thirds slower.
    """
    return _set({_MMAP_THRESHOLD: 65536, _TRIM_THRESHOLD: 65536, _ARENA_MAX: 1})


def release_freed_memory() -> None:
    """Give back what is freed already, and from now on every large block at once, where memory has run out.

    Blocks that were freed lie between others that are in use; a larger one fits into none of them, and no limit of
    the process counts them as free.
    """
    if give_back_freed_memory():
        ctypes.CDLL(None).malloc_trim(0)


def _set(options: dict[int, int]) -> bool:
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, musl has not
    return mallopt is not None and sum(mallopt(option, value) for option, value in options.items()) == len(options)
