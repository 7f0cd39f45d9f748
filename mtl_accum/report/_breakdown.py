"""Tables of memory by category at the peak and by phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl_accum.report._table import mib, peak_source, record_of

__all__ = [
    "CATEGORIES",
    "breakdown_source",
    "breakdown_table",
    "category_notes",
    "phase_label",
    "steps_with_phases",
    "timeline_table",
]

# Label and meaning of each category, by its name in the JSON.
CATEGORIES = {
    "parameters": ("parameters", "of the network"),
    "buffers": ("buffers", "of its modules"),
    "gradients": ("gradients", "of the parameters"),
    "optimizer_state": ("optimizer state", "momentum, second moments, step counters"),
    "inputs": ("inputs", "the batch"),
    "activations": (
        "activations",
        "made by a forward and still there when the next backward ran: saved for it, or the representation",
    ),
    "temporaries": (
        "temporaries",
        "everything else: made and freed within a forward, or by a backward (dL/dz too, and gradients that wait for "
        "the backward of a loss) or the optimizer for itself",
    ),
    "workspaces": ("workspaces", "memory that cuBLAS keeps in the allocator"),
    "rounding": ("rounding", "memory that the allocator hands out beyond the requested sizes"),
}
_MOST_PHASES = 40  # rows of a timeline; in a longer one, phases of the same name share a row


def breakdown_source(report: Mapping[str, Any]) -> str:
    """Return the source of figures with categories: "tensors" on every device, or "predicted"."""
    return "predicted" if peak_source(report) == "predicted" else "tensors"


def breakdown_table(report: Mapping[str, Any]) -> list[list[str]]:
    """Return a table with a row per category and a column per edition, without empty rows and columns."""
    source = breakdown_source(report)
    records = {row["edition"]: record_of(row, source) for row in report["editions"]}
    known = {name: record for name, record in records.items() if record is not None and record.get("categories")}
    if not known:
        return []
    rows = [["at the peak", *known]]
    for category, (label, _) in CATEGORIES.items():
        sizes = [record["categories"][category] for record in known.values()]
        if any(sizes):
            rows.append([label, *map(mib, sizes)])
    rows.append(["sum: the peak", *(mib(record["peak_bytes"]) for record in known.values())])
    rows.append(["reached in", *(record["peak_phase"] or "–" for record in known.values())])
    rows.append(["by the operator", *(record["peak_operator"] or "–" for record in known.values())])
    return rows


def steps_with_phases(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the editions whose record has phases, each with its record."""
    source = breakdown_source(report)
    known = ((row["edition"], record_of(row, source)) for row in report["editions"])
    return [(name, record) for name, record in known if record is not None and record["timeline"]]


def category_notes(table: list[list[str]]) -> list[str]:
    """Return the meanings of a table's categories."""
    shown = {row[0] for row in table}
    return [f"{label}: {meaning}." for label, meaning in CATEGORIES.values() if label in shown]


def timeline_table(record: Mapping[str, Any]) -> list[list[str]]:
    """Return a table with a row per phase: its peak, and the live bytes at its end."""
    phases = record["timeline"]
    if not phases:
        return []
    rows = [["phase", "peak", "left at its end"]]
    if len(phases) <= _MOST_PHASES:
        return rows + [[phase_label(p), mib(p["peak_bytes"]), mib(p["end_bytes"])] for p in phases]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for phase in phases:
        groups.setdefault(phase_label(phase), []).append(phase)
    return rows + [
        [
            f"{label} ({len(group)} times)" if len(group) > 1 else label,
            mib(max(phase["peak_bytes"] for phase in group)),
            mib(max(phase["end_bytes"] for phase in group)),
        ]
        for label, group in groups.items()
    ]


def phase_label(phase: Mapping[str, Any]) -> str:
    """Return the label of a phase in a record: "head digit backward", "optimizer".

    It equals the engine's label of the same phase; a test compares the two, since reports import no other package.
    """
    name, kind = phase["name"], phase["kind"]
    return name if name == kind else f"{name} {kind}"
