"""Saving state and putting it back, bit for bit: random numbers, buffers, weights, optimizer state."""

from mtl_accum._state._buffers import BufferLog, Saved, is_constant
from mtl_accum._state._rng import HostState, RandomNumbers, RandomState, same_random_numbers
from mtl_accum._state._weights import KeptTensor, Weights

__all__ = [
    "BufferLog",
    "HostState",
    "KeptTensor",
    "RandomNumbers",
    "RandomState",
    "Saved",
    "Weights",
    "is_constant",
    "same_random_numbers",
]
