"""One knob for the size of a network and of its data."""

from __future__ import annotations

from mtl_accum._validate import positive, positive_int

__all__ = ["scaled"]


def scaled(number: int, scale: float, multiple: int = 1) -> int:
    """A size at another scale: the nearest multiple, and never less than one multiple.

    Args:
        number: the size at scale 1.
        scale: share of it; 1 is full size.
        multiple: of what the result must be.

    Raises:
        ValueError: number is no positive integer, or scale no positive number.
    """
    positive_int("a size at scale 1", number)
    positive("scale", scale)
    return multiple * max(1, round(number * scale / multiple))
