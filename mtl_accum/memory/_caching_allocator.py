"""A model of CUDA's caching allocator: how large its pool grows for a sequence of allocations."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from mtl_accum.memory._storages import Event

__all__ = ["BLOCK", "CachingAllocator"]

_MIB = 1 << 20
BLOCK = 512  # bytes; every allocation is a multiple
_SMALL = _MIB  # allocations up to here come from segments of their own kind
_SMALL_SEGMENT, _LARGE_SEGMENT = 2 * _MIB, 20 * _MIB
_OWN_SEGMENT = 10 * _MIB  # allocations from here on get a segment of their size, in steps of the small one


class _Block:
    """A piece of a segment, with its neighbours there."""

    __slots__ = ("free", "next", "order", "previous", "size", "small")

    def __init__(self, size: int, small: bool, order: tuple[int, int]) -> None:
        self.size, self.small, self.order, self.free = size, small, order, True
        self.previous: _Block | None = None
        self.next: _Block | None = None

    def key(self) -> tuple[int, tuple[int, int]]:
        return self.size, self.order


class CachingAllocator:
    """Allocates as `torch.cuda`'s native allocator does by default: one stream, no expandable segments.

    A request is rounded up to blocks of 512 bytes, takes the smallest free block of its pool that holds it (up
    to 1 MiB: the small pool, cut from segments of 2 MiB; above: the large one, segments of 20 MiB, from 10 MiB
    on of its own size), splits off what is left over, and joins free neighbours when it is given back.
    Segments are never returned. Source: c10/cuda/CUDACachingAllocator.cpp and c10/core/AllocatorConfig.h.

    Attributes:
        allocated: bytes handed out now: whole blocks, as torch counts them.
        highest: the most that were.
        reserved: bytes of all segments.
    """

    def __init__(self) -> None:
        self.allocated, self.highest, self.reserved = 0, 0, 0
        self._segments = 0
        self._free: dict[bool, list[_Block]] = {True: [], False: []}
        self._held: dict[int, _Block] = {}

    def replay(self, events: Iterable[Event]) -> None:
        """Do all of what a meter has seen."""
        for event in events:
            if event.size > 0:
                self.allocate(event.storage, event.size)
            elif event.size < 0:
                self.give_back(event.storage)

    def allocate(self, name: int, size: int) -> None:
        """Allocate so many bytes under a name."""
        size = -(-size // BLOCK) * BLOCK
        small = size <= _SMALL
        block = self._smallest(size, small) or self._segment(size, small)
        if block.size - size >= BLOCK if small else block.size - size > _SMALL:
            self._split(block, size)
        block.free = False
        self.allocated += block.size
        self.highest = max(self.highest, self.allocated)
        self._held[name] = block

    def give_back(self, name: int) -> None:
        """Free what was allocated under a name."""
        block = self._held.pop(name)
        self.allocated -= block.size
        block.free = True
        before, after = block.previous, block.next
        if before is not None and before.free:
            self._take(before)
            block.order, block.previous = before.order, before.previous
            block.size += before.size
            if block.previous is not None:
                block.previous.next = block
        if after is not None and after.free:
            self._take(after)
            block.next = after.next
            block.size += after.size
            if block.next is not None:
                block.next.previous = block
        bisect.insort(self._free[block.small], block, key=_Block.key)

    def _smallest(self, size: int, small: bool) -> _Block | None:
        free = self._free[small]
        index = bisect.bisect_left(free, (size, (-1, -1)), key=_Block.key)
        return free.pop(index) if index < len(free) else None

    def _segment(self, size: int, small: bool) -> _Block:
        if small:
            room = _SMALL_SEGMENT
        elif size < _OWN_SEGMENT:
            room = _LARGE_SEGMENT
        else:
            room = -(-size // _SMALL_SEGMENT) * _SMALL_SEGMENT
        self.reserved += room
        self._segments += 1
        return _Block(room, small, (self._segments, 0))

    def _split(self, block: _Block, size: int) -> None:
        segment, offset = block.order
        rest = _Block(block.size - size, block.small, (segment, offset + size))
        rest.previous, rest.next = block, block.next
        if block.next is not None:
            block.next.previous = rest
        block.next, block.size = rest, size
        bisect.insort(self._free[block.small], rest, key=_Block.key)

    def _take(self, block: _Block) -> None:
        free = self._free[block.small]
        free.pop(bisect.bisect_left(free, block.key(), key=_Block.key))
