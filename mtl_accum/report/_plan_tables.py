"""A plan as text: what was chosen and why, what else there is, and what would help if nothing fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from mtl_accum.report._breakdown import CATEGORIES
from mtl_accum.report._escape import plain
from mtl_accum.report._table import mib, plain_table

__all__ = ["Section", "plan_conclusion", "plan_markdown", "plan_sections"]

Plan = Mapping[str, Any]
_REFERENCE = "SummedLoss"
_NEAR = 0.1  # of the front, what differs less is not shown


@dataclass(frozen=True)
class Section:
    """A part of the text.

    Attributes:
        title: its heading.
        table: cells, the first row being the heading; empty if there is none.
        lines: one thing each.
    """

    title: str
    table: list[list[str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def plan_conclusion(plan: Plan) -> list[str]:
    """The answer: what to do, and what it costs."""
    budget, summed, chosen = plan["budget"], plan["summed"], plan["chosen"]
    limit = f"the budget of {mib(budget['size'])} ({budget['words']})"
    if chosen is None:
        return [f"Nothing fits into {limit}: the smallest peak that an exact schedule has is {_peak(plan)}."]
    return [
        f"{chosen['schedule']} fits into {limit}: it needs {_peak(plan)} where {_REFERENCE} needs "
        f"{mib(summed['peak_bytes'])}, in {chosen['time_ratio']:.2f} times its time.",
        *([f"In the loop: {chosen['call']}"] if "call" in chosen else []),
        f"On the command line: {' '.join(chosen['overrides'])}",
    ]


def plan_sections(plan: Plan) -> list[Section]:
    """Everything else, the most useful first."""
    parts = [
        Section(
            "The choice",
            _front(plan),
            [
                f"Of {plan['candidates']} schedules, some of those than which none is both faster and smaller.",
                f"Memory: predicted peak of live tensors. Time: by {plan['timed_by']}.",
            ],
        ),
        Section("Tried on the device", _trials(plan)),
        Section("What the peak is", _categories(plan)),
        Section(
            "The largest batch",
            [
                ["schedule", "samples"],
                *([row["schedule"], _samples(row["samples"])] for row in plan["largest_batch"]),
            ],
            [f"That would fit, by the kind of schedule; planned was for {plan['samples']}."],
        ),
        Section(
            "Held against SummedLoss", lines=[f"{name}: {text}" for name, text in plan.get("exactness", {}).items()]
        ),
        Section("Left out", lines=[f"{what}: {_reason(what, why)}" for what, why in plan["left_out"].items()]),
    ]
    if plan.get("notes"):
        parts.insert(0, Section("Note", lines=list(plan["notes"])))
    if plan["chosen"] is None:
        held = [[name, mib(size)] for name, size in plan["holds"].items()]
        parts.insert(0, Section("What would help", lines=list(plan["advice"])))
        parts.insert(0, Section("What no schedule can do without", [["part", "size"], *held]))
    spent = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in plan["spent"].items())
    parts.append(Section("How long the plan took", lines=[f"{spent}."]))
    return [part for part in parts if len(part.table) > 1 or (not part.table and part.lines)]


def plan_markdown(plan: Plan, level: str = "##") -> list[str]:
    """The plan as lines of Markdown."""
    lines = [line for text in plan_conclusion(plan) for line in (plain(text), "")]
    for part in plan_sections(plan):
        lines += [f"{level} {part.title}", ""]
        lines += [*plain_table(part.table), ""] if part.table else []
        lines += [*(f"- {plain(line)}" for line in part.lines), ""] if part.lines else []
    return lines


def _front(plan: Plan) -> list[list[str]]:
    budget, summed = plan["budget"]["size"], plan["summed"]
    shown = [summed]
    if plan["chosen"] is not None and plan["chosen"]["edition"] != summed["edition"]:
        shown.append(plan["chosen"])
    for row in plan["front"]:
        near = any(abs(row["peak_bytes"] - other["peak_bytes"]) < _NEAR * other["peak_bytes"] for other in shown)
        shown += [] if near else [row]
    shown.sort(key=lambda row: -row["peak_bytes"])
    rows = [["schedule", "peak", f"memory / {_REFERENCE}", f"time / {_REFERENCE}", ""]]
    for row in shown:
        chosen = plan["chosen"] is not None and row["edition"] == plan["chosen"]["edition"]
        note = "chosen" if chosen else "" if row["peak_bytes"] <= budget else "over the budget"
        ratio = row["peak_bytes"] / summed["peak_bytes"]
        rows.append([row["schedule"], mib(row["peak_bytes"]), f"{ratio:.2f}", f"{row['time_ratio']:.2f}", note])
    return rows


def _trials(plan: Plan) -> list[list[str]]:
    rows = [["schedule", "measured peak", "step", ""]]
    for trial in plan["trials"]:
        verdict = "a tie" if trial.get("tie") else trial.get("note", "")
        if not trial["fits"] and not verdict:
            verdict = "does not fit" if trial["peak_bytes"] else "ran out of memory"
        seconds = trial["step_seconds"]
        step = f"{1000 * median(seconds):.1f} ms" if seconds else "–"
        rows.append([trial["schedule"], mib(trial["peak_bytes"]), step, verdict])
    return rows


def _categories(plan: Plan) -> list[list[str]]:
    found = plan["peak"]["categories"]
    if found is None:
        return []
    rows = [[label, mib(found[name])] for name, (label, _) in CATEGORIES.items() if found[name]]
    return [["at the peak", "predicted"], *rows, ["reached in", plan["peak"]["peak_phase"] or "–"]]


def _peak(plan: Plan) -> str:
    return mib(plan["peak"]["peak_bytes"])


def _samples(count: int | None) -> str:
    return "any" if count is None else "none" if count == 0 else str(count)


def _reason(what: str, why: str) -> str:
    return why.removeprefix(f"{what}: ")
