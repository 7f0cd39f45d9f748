"""Text of a plan: the choice and its reasons, the alternatives, and advice if nothing fits."""

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
_NEAR = 0.1  # schedules of the front whose peaks differ by less than this share are shown once


@dataclass(frozen=True)
class Section:
    """Section of the text.

    Attributes:
        title: Heading of the section.
        table: Cells of a table, headings first; empty if there is none.
        lines: Sentences below the table.
    """

    title: str
    table: list[list[str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def plan_conclusion(plan: Plan) -> list[str]:
    """Return the conclusion of a plan: the schedule to use, and its costs."""
    budget, summed, chosen = plan["budget"], plan["summed"], plan["chosen"]
    limit = f"the budget of {mib(budget['size'])} ({budget['words']})"
    if chosen is None:
        return [f"Nothing fits into {limit}: the smallest peak of an exact schedule is {_peak(plan)}."]
    return [
        f"{chosen['schedule']} fits into {limit}: it needs {_peak(plan)} where {_REFERENCE} needs "
        f"{mib(summed['peak_bytes'])}, in {chosen['time_ratio']:.2f} times its time.",
        *([f"In the loop: {chosen['call']}"] if "call" in chosen else []),
        f"On the command line: {' '.join(chosen['overrides'])}",
    ]


def plan_sections(plan: Plan) -> list[Section]:
    """Return the other sections of a plan, the most useful first."""
    sections = [
        Section(
            "The choice",
            _front(plan),
            [
                f"Of {plan['candidates']} schedules, some on the Pareto front: no other is both faster and smaller.",
                f"Memory: predicted peak of live tensors. Time: by {plan['timed_by']}.",
            ],
        ),
        Section("Trials on the device", _trials(plan)),
        Section("The peak by category", _categories(plan)),
        Section(
            "The largest batch",
            [
                ["schedule", "samples"],
                *([row["schedule"], _samples(row["samples"])] for row in plan["largest_batch"]),
            ],
            [f"The largest that would fit, by kind of schedule; the plan is for {plan['samples']}."],
        ),
        Section(
            "Compared with SummedLoss", lines=[f"{name}: {text}" for name, text in plan.get("exactness", {}).items()]
        ),
        Section("Left out", lines=[f"{kind}: {_reason(kind, text)}" for kind, text in plan["left_out"].items()]),
    ]
    if plan.get("notes"):
        sections.insert(0, Section("Note", lines=list(plan["notes"])))
    if plan["chosen"] is None:
        needed = [[name, mib(size)] for name, size in plan["holds"].items()]
        sections.insert(0, Section("What would help", lines=list(plan["advice"])))
        sections.insert(0, Section("What every schedule needs", [["part", "size"], *needed]))
    spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in plan["spent"].items())
    sections.append(Section("How long the plan took", lines=[f"{spent}."]))
    return [section for section in sections if len(section.table) > 1 or (not section.table and section.lines)]


def plan_markdown(plan: Plan, level: str = "##") -> list[str]:
    """Return a plan as lines of Markdown.

    Args:
        plan: Plan as plain values.
        level: Markup of the headings.
    """
    lines = [line for text in plan_conclusion(plan) for line in (plain(text), "")]
    for section in plan_sections(plan):
        lines += [f"{level} {section.title}", ""]
        lines += [*plain_table(section.table), ""] if section.table else []
        lines += [*(f"- {plain(line)}" for line in section.lines), ""] if section.lines else []
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
    sizes = plan["peak"]["categories"]
    if sizes is None:
        return []
    rows = [[label, mib(sizes[name])] for name, (label, _) in CATEGORIES.items() if sizes[name]]
    return [["at the peak", "predicted"], *rows, ["reached in", plan["peak"]["peak_phase"] or "–"]]


def _peak(plan: Plan) -> str:
    return mib(plan["peak"]["peak_bytes"])


def _samples(count: int | None) -> str:
    return "any" if count is None else "none" if count == 0 else str(count)


def _reason(kind: str, text: str) -> str:
    """Return a reason without the kind of schedule that it may begin with."""
    return text.removeprefix(f"{kind}: ")
