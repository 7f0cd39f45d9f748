"""What figures show, whoever draws them: parts of a bar, sources of a peak, points of a tradeoff."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from mtl_accum.report._breakdown import breakdown_source
from mtl_accum.report._style import CATEGORY_LOOKS
from mtl_accum.report._table import Row, peak_bytes, peak_source, record

__all__ = ["SOURCES", "Point", "parts_of_peak", "tradeoff"]

Point = tuple[float, int, str]  # seconds of a step, bytes of its peak, the edition
SOURCES = {
    "peak_bytes": "allocated: handed out to tensors",
    "reserved_bytes": "reserved: the allocator's pool",
    "process_bytes": "NVML, process: pool, context and libraries",
    "device_bytes": "NVML, device: other processes too",
}


def parts_of_peak(row: Row, report: Mapping[str, Any], peak: int | None) -> list[tuple[str, int]]:
    """The categories of a bar, the largest ones of most reports first, and what is left."""
    found = record(row, breakdown_source(report))
    known = dict(found["categories"]) if found and found.get("categories") else {}
    parts = [(category, known[category]) for category in CATEGORY_LOOKS if known.get(category)]
    rest = (peak or 0) - sum(size for _, size in parts)
    return [*parts, ("", rest)] if rest > 0 else parts


def tradeoff(report: Mapping[str, Any]) -> tuple[list[Point], list[Point]]:
    """The editions in their order, and those of them than which none is both smaller and faster, the fastest first.

    Nothing where there are fewer than three.
    """
    source = peak_source(report)
    editions = [
        (median(row["step_seconds"]), peak, row["edition"])
        for row in report["editions"]
        if row["step_seconds"] and (peak := peak_bytes(row, source))
    ]
    if len(editions) < 3:
        return [], []
    by_time = sorted(editions)
    front = [point for index, point in enumerate(by_time) if all(point[1] < other[1] for other in by_time[:index])]
    return editions, front
