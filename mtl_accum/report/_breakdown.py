"""What the memory at the peak is, and how it came and went: two kinds of tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl_accum.report._table import mib, peak_source, record

__all__ = [
    "CATEGORIES",
    "breakdown_source",
    "breakdown_table",
    "category_notes",
    "phase_label",
    "steps_with_phases",
    "timeline_table",
]

# By their names in the JSON: what a person calls them, and what they are.
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
    "workspaces": ("workspaces", "what cuBLAS keeps in the allocator"),
    "rounding": ("rounding", "what the allocator hands out beyond what was asked for"),
}
_MOST_PHASES = 40  # rows of a timeline; of more, those of one name become one


def breakdown_source(report: Mapping[str, Any]) -> str:
    """Whose figures have categories: the live tensors', on every device, or the prediction's."""
    return "predicted" if peak_source(report) == "predicted" else "tensors"


def breakdown_table(report: Mapping[str, Any]) -> list[list[str]]:
    """A row a category and a column an edition; categories that are nowhere are left out, as are editions without."""
    source = breakdown_source(report)
    found = {row["edition"]: record(row, source) for row in report["editions"]}
    known = {name: peak for name, peak in found.items() if peak is not None and peak.get("categories")}
    if not known:
        return []
    rows = [["at the peak", *known]]
    for category, (label, _) in CATEGORIES.items():
        sizes = [peak["categories"][category] for peak in known.values()]
        if any(sizes):
            rows.append([label, *map(mib, sizes)])
    rows.append(["sum: the peak", *(mib(peak["peak_bytes"]) for peak in known.values())])
    rows.append(["reached in", *(peak["peak_phase"] or "–" for peak in known.values())])
    rows.append(["by the operator", *(peak["peak_operator"] or "–" for peak in known.values())])
    return rows


def steps_with_phases(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The editions whose record has phases, with that record."""
    source = breakdown_source(report)
    known = ((row["edition"], record(row, source)) for row in report["editions"])
    return [(name, found) for name, found in known if found is not None and found["timeline"]]


def category_notes(table: list[list[str]]) -> list[str]:
    """What the categories of a table mean."""
    shown = {row[0] for row in table}
    return [f"{label}: {meaning}." for label, meaning in CATEGORIES.values() if label in shown]


def timeline_table(found: Mapping[str, Any]) -> list[list[str]]:
    """A row a phase: its highest point, and what was left at its end."""
    phases = found["timeline"]
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
    """What a person calls a phase: "head digit backward", "optimizer"."""
    name, kind = phase["name"], phase["kind"]
    return name if name == kind else f"{name} {kind}"
