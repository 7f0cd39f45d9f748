"""The model of CUDA's allocator: its rules one by one, and invariants of any sequence of allocations."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mtl_accum.memory import CachingAllocator, Event

MIB = 1 << 20


def after(*sizes: Any) -> tuple[int, int]:
    """Return allocated and reserved bytes after some allocations, named by their order; a negative number frees one."""
    allocator = CachingAllocator()
    for name, size in enumerate(sizes):
        if size < 0:
            allocator.free(-size - 1)
        else:
            allocator.allocate(name, size)
    return allocator.allocated, allocator.reserved


def test_small_ones_share_segments_of_2_mib() -> None:
    assert after(1) == (512, 2 * MIB)
    assert after(513, MIB) == (1024 + MIB, 2 * MIB)
    assert after(MIB, MIB, 1) == (2 * MIB + 512, 4 * MIB)


def test_large_ones_share_segments_of_20_mib() -> None:
    assert after(MIB + 1) == (MIB + 512, 20 * MIB)
    assert after(9 * MIB, 9 * MIB) == (18 * MIB, 20 * MIB)


def test_very_large_ones_have_segments_of_their_own_size() -> None:
    assert after(10 * MIB) == (10 * MIB, 10 * MIB)
    assert after(11 * MIB + 1) == (12 * MIB, 12 * MIB), "what is left is too little to split off: it counts as used"


def test_the_published_snapshot_of_a_linear_layer() -> None:
    """A cuBLAS workspace and four small tensors: pytorch's issue 95668 shows the 8,519,680 bytes."""
    assert after(8_519_680, 512, 4096, 40_448, 512) == (8_565_248, 23_068_672)


def test_freed_blocks_are_used_again_and_join() -> None:
    assert after(4 * MIB, 4 * MIB, -1, -2, 8 * MIB) == (8 * MIB, 20 * MIB)
    assert after(4 * MIB, 4 * MIB, 12 * MIB, -1, -3, 12 * MIB) == (16 * MIB, 20 * MIB)


def test_the_smallest_block_that_holds_it() -> None:
    """Segments of 30 and 40 MiB become free; 25 MiB go into the smaller, so that 40 still fit."""
    assert after(30 * MIB, 40 * MIB, -1, -2, 25 * MIB, 40 * MIB) == (65 * MIB, 70 * MIB)


def test_a_block_with_more_left_over_than_a_large_one_may_waste_is_split() -> None:
    assert after(30 * MIB, -1, 28 * MIB + 1, 1) == (28 * MIB + 1024, 32 * MIB)
    assert after(30 * MIB, -1, 29 * MIB) == (30 * MIB, 30 * MIB)


@given(st.lists(st.tuples(st.integers(0, 30 * MIB), st.integers(0, 9)), max_size=60))
def test_any_sequence(steps: list[tuple[int, int]]) -> None:
    allocator, live, events = CachingAllocator(), [], []
    for number, (size, drop) in enumerate(steps):
        events.append(Event(number, size, "", ""))
        if size:
            live.append((number, size))
        if live and drop < 5:
            freed, freed_size = live.pop(drop % len(live))
            events.append(Event(freed, -freed_size, "", ""))
    allocator.replay(events)
    held = sum(block.size for block in allocator._held.values())
    free = sum(block.size for pool in allocator._free.values() for block in pool)
    assert allocator.allocated == held >= sum(size for _, size in live)
    assert allocator.reserved == held + free
    allocator.replay([Event(name, -size, "", "") for name, size in live])
    blocks = [block for pool in allocator._free.values() for block in pool]
    assert allocator.allocated == 0
    assert len(blocks) == allocator._segments, "every segment is one free block again"
    assert sum(block.size for block in blocks) == allocator.reserved
