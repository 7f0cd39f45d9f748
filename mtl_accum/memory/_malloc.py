"""Settings of the C allocator: keep freed memory for speed, or return it at once for measuring memory."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["give_back_freed_memory", "keep_freed_memory", "release_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # numbers of glibc's mallopt options
_LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; glibc refuses more


def keep_freed_memory() -> bool:
    """Keep freed blocks for the next step, as the CUDA allocator does.

    By default glibc returns large blocks to the system and gets them back page by page. That takes about a fifth of a
    convolutional step's time on the CPU, and more for editions that free heads often.

    Returns:
        Whether the settings took effect.
    """
    return _set({_MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD, _TRIM_THRESHOLD: 2**31 - 1})


def give_back_freed_memory() -> bool:
    """Return every large block to the system when it is freed, so resident memory is the memory in use.

    For a fresh process: earlier blocks are not affected. A step becomes up to two thirds slower.

    Returns:
        Whether the settings took effect.
    """
    return _set({_MMAP_THRESHOLD: 65536, _TRIM_THRESHOLD: 65536, _ARENA_MAX: 1})


def release_freed_memory() -> None:
    """Return freed memory to the system after memory ran out, and from now on every large block when it is freed.

    Freed blocks lie between blocks in use. A larger block fits into none of them, and limits of the process do not
    count them as free.
    """
    if give_back_freed_memory():
        ctypes.CDLL(None).malloc_trim(0)


def _set(options: dict[int, int]) -> bool:
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has mallopt, musl does not
    return mallopt is not None and sum(mallopt(option, value) for option, value in options.items()) == len(options)
