"""What a bar is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl_accum.report._breakdown import breakdown_source
from mtl_accum.report._looks import CATEGORY_LOOKS
from mtl_accum.report._table import Row, record

__all__ = ["parts_of_peak"]


def parts_of_peak(row: Row, report: Mapping[str, Any], peak: int | None) -> list[tuple[str, int]]:
    """The categories of a bar, the largest ones of most reports first, and what is left."""
    found = record(row, breakdown_source(report))
    known = dict(found["categories"]) if found and found.get("categories") else {}
    parts = [(category, known[category]) for category in CATEGORY_LOOKS if known.get(category)]
    rest = (peak or 0) - sum(size for _, size in parts)
    return [*parts, ("", rest)] if rest > 0 else parts
