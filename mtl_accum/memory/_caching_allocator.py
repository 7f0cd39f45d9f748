"""Model of CUDA's caching allocator: the size of its pool for a sequence of allocations."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from mtl_accum.memory._storages import Event

__all__ = ["BLOCK", "CachingAllocator"]

_MIB = 1 << 20
BLOCK = 512  # bytes; allocations are rounded up to a multiple
_SMALL = _MIB  # largest allocation of the small pool
_SMALL_SEGMENT, _LARGE_SEGMENT = 2 * _MIB, 20 * _MIB
_OWN_SEGMENT = 10 * _MIB  # smallest allocation with its own segment, a multiple of the small segment


class _Block:
    """Part of a segment, linked to its neighbours in the segment."""

    __slots__ = ("free", "next", "order", "previous", "size", "small")

    def __init__(self, size: int, small: bool, order: tuple[int, int]) -> None:
        self.size, self.small, self.order, self.free = size, small, order, True
        self.previous: _Block | None = None
        self.next: _Block | None = None

    def key(self) -> tuple[int, tuple[int, int]]:
        """Return the key of the order in which free blocks are searched: size, then address."""
        return self.size, self.order


class CachingAllocator:
    """Model of `torch.cuda`'s native allocator with default settings: one stream, no expandable segments.

    A request is rounded up to blocks of 512 bytes and takes the smallest free block of its pool that holds it; the
    remainder is split off. Requests up to 1 MiB use the small pool, cut from segments of 2 MiB. Larger ones use the
    large pool, cut from segments of 20 MiB; requests from 10 MiB on have a segment of their own size. A freed block is
    merged with free neighbours. Segments are never returned. Source: c10/cuda/CUDACachingAllocator.cpp and
    c10/core/AllocatorConfig.h.

    Attributes:
        allocated: Bytes of allocated blocks, rounded up as torch counts them.
        highest: Largest value of `allocated` so far.
        reserved: Bytes of all segments.
    """

    def __init__(self) -> None:
        self.allocated, self.highest, self.reserved = 0, 0, 0
        self._segments = 0
        self._free: dict[bool, list[_Block]] = {True: [], False: []}
        self._held: dict[int, _Block] = {}

    def replay(self, events: Iterable[Event]) -> None:
        """Repeat the allocations and deallocations that a meter recorded."""
        for event in events:
            if event.size > 0:
                self.allocate(event.storage, event.size)
            elif event.size < 0:
                self.free(event.storage)

    def allocate(self, name: int, size: int) -> None:
        """Allocate `size` bytes under a name."""
        size = -(-size // BLOCK) * BLOCK
        small = size <= _SMALL
        block = self._take_smallest(size, small) or self._reserve(size, small)
        if block.size - size >= BLOCK if small else block.size - size > _SMALL:
            self._split(block, size)
        block.free = False
        self.allocated += block.size
        self.highest = max(self.highest, self.allocated)
        self._held[name] = block

    def free(self, name: int) -> None:
        """Free the allocation with a name."""
        block = self._held.pop(name)
        self.allocated -= block.size
        block.free = True
        before, after = block.previous, block.next
        if before is not None and before.free:
            self._unlist(before)
            block.order, block.previous = before.order, before.previous
            block.size += before.size
            if block.previous is not None:
                block.previous.next = block
        if after is not None and after.free:
            self._unlist(after)
            block.next = after.next
            block.size += after.size
            if block.next is not None:
                block.next.previous = block
        bisect.insort(self._free[block.small], block, key=_Block.key)

    def _take_smallest(self, size: int, small: bool) -> _Block | None:
        """Take the smallest free block of a pool that holds `size` bytes; None if there is none."""
        free = self._free[small]
        index = bisect.bisect_left(free, (size, (-1, -1)), key=_Block.key)
        return free.pop(index) if index < len(free) else None

    def _reserve(self, size: int, small: bool) -> _Block:
        """Reserve a new segment, and return it as one block."""
        if small:
            segment = _SMALL_SEGMENT
        elif size < _OWN_SEGMENT:
            segment = _LARGE_SEGMENT
        else:
            segment = -(-size // _SMALL_SEGMENT) * _SMALL_SEGMENT
        self.reserved += segment
        self._segments += 1
        return _Block(segment, small, (self._segments, 0))

    def _split(self, block: _Block, size: int) -> None:
        """Shrink a block to `size` bytes, and list the remainder as free."""
        segment, offset = block.order
        remainder = _Block(block.size - size, block.small, (segment, offset + size))
        remainder.previous, remainder.next = block, block.next
        if block.next is not None:
            block.next.previous = remainder
        block.next, block.size = remainder, size
        bisect.insort(self._free[block.small], remainder, key=_Block.key)

    def _unlist(self, block: _Block) -> None:
        """Remove a block from the list of free blocks."""
        free = self._free[block.small]
        free.pop(bisect.bisect_left(free, block.key(), key=_Block.key))
