"""The random numbers that a network, and the code around it, may draw."""

from mtl_accum.editions import RandomNumbers, same_random_numbers

__all__ = ["RandomNumbers", "same_random_numbers"]
