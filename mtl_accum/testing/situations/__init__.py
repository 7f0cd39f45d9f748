"""Situations of the exactness matrix: small networks, each with one thing that could go wrong.

The modules register their situations when they are imported; the order here is the order of the table.
"""

from mtl_accum.testing.situations import _plain, _counts, _buffers, _composition, _awkward  # noqa: F401, I001
from mtl_accum.testing.situations._situation import SITUATIONS, Situation

__all__ = ["SITUATIONS", "Situation"]
