"""One knob for the size of a network and of its data."""

from __future__ import annotations

from mtl_accum._validate import positive, positive_int

__all__ = ["scaled"]

_LARGEST = 2.0**63


def scaled(number: int, scale: float, multiple: int = 1, *, name: str = "a size at scale 1") -> int:
    """A size at another scale: the nearest multiple, and never less than one multiple.

    Args:
        number: the size at scale 1.
        scale: share of it; 1 is full size.
        multiple: of what the result must be.
        name: of the size, for the error.

    Raises:
        ValueError: number is no positive integer, or scale no positive number, or the result does not fit into 64 bits.
    """
    positive_int(name, number)
    positive("scale", scale)
    if number * scale >= _LARGEST:
        raise ValueError(f"scale must leave {name} below 2**63; found {number} at scale {scale}")
    return multiple * max(1, round(number * scale / multiple))
