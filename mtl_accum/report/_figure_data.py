"""Data of the figures, shared by the page and the pictures: parts of a bar, sources of a peak, points of a tradeoff."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from mtl_accum.report._breakdown import breakdown_source
from mtl_accum.report._pareto import pareto_front
from mtl_accum.report._style import CATEGORY_STYLES
from mtl_accum.report._table import Row, peak_bytes, peak_source, record_of

__all__ = ["SOURCES", "Point", "categories_of_peak", "tradeoff"]

Point = tuple[float, int, str]  # seconds of a step, bytes of its peak, the edition
SOURCES = {
    "peak_bytes": "allocated: handed out to tensors",
    "reserved_bytes": "reserved: the allocator's pool",
    "process_bytes": "NVML, process: pool, context and libraries",
    "device_bytes": "NVML, device: other processes too",
}


def categories_of_peak(row: Row, report: Mapping[str, Any], peak: int | None) -> list[tuple[str, int]]:
    """Return the categories of an edition's peak with their bytes, in the order of a bar.

    Args:
        row: Edition of the report.
        report: Report.
        peak: Height of the bar in bytes. What the categories do not explain comes last, as the category "".
    """
    record = record_of(row, breakdown_source(report))
    sizes = dict(record["categories"]) if record and record.get("categories") else {}
    parts = [(category, sizes[category]) for category in CATEGORY_STYLES if sizes.get(category)]
    unexplained = (peak or 0) - sum(size for _, size in parts)
    return [*parts, ("", unexplained)] if unexplained > 0 else parts


def tradeoff(report: Mapping[str, Any]) -> tuple[list[Point], list[Point]]:
    """Return the editions as points, and their Pareto front, fastest first; empty for fewer than three editions."""
    source = peak_source(report)
    editions = [
        (median(row["step_seconds"]), peak, row["edition"])
        for row in report["editions"]
        if row["step_seconds"] and (peak := peak_bytes(row, source))
    ]
    if len(editions) < 3:
        return [], []
    return editions, pareto_front(editions, lambda point: point[:2])
