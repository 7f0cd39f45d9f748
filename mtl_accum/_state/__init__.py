"""Saving and restoring state, bit for bit: random numbers, buffers, weights, gradients, optimizer state."""

from mtl_accum._state._buffers import BufferSnapshot, SavedBuffer
from mtl_accum._state._preserved import preserved
from mtl_accum._state._rng import RngState, same_random_numbers
from mtl_accum._state._weights import RollbackError, WeightSnapshot, WriteDetector

__all__ = [
    "BufferSnapshot",
    "RngState",
    "RollbackError",
    "SavedBuffer",
    "WeightSnapshot",
    "WriteDetector",
    "preserved",
    "same_random_numbers",
]
