"""A report as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mtl_accum.report._breakdown import breakdown_table, category_notes, steps_with_phases, timeline_table
from mtl_accum.report._plan import plan_markdown
from mtl_accum.report._table import editions_table, markdown_table

__all__ = ["markdown"]


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report as one Markdown page."""
    table = editions_table(report)
    training = report.get("training")
    pictured = "peak memory of the editions and its phases" + (", and the training curves" if training else "")
    return "\n".join(
        [
            "# mtl_accum report",
            "",
            f"`{report['command']}`",
            "",
            f"{report['created']}, {device(report)}, seed {report['seed']}",
            "",
            batch(report),
            "",
            "## The editions side by side",
            "",
            table.conclusion,
            "",
            *markdown_table([table.columns, *table.rows]),
            "",
            *(f"- {note}" for note in table.notes),
            "",
            f"![{pictured}](memory.png)",
            "",
            *_memory(report),
            *(_training(training, report["metrics"]) if training else []),
            *(["## The plan", "", *plan_markdown(report["plan"], "###")] if "plan" in report else []),
            "## What was run",
            "",
            *(f"- {name} {version}" for name, version in report["versions"].items()),
            f"- git commit {report['git_commit'] or '–'}",
            "",
            "```json",
            json.dumps(report["config"], indent=2),
            "```",
            "",
        ]
    )


def _memory(report: Mapping[str, Any]) -> list[str]:
    """What the peak is made of, and the phases of each edition."""
    table = breakdown_table(report)
    if not table:
        return []
    lines = ["## What the memory is", "", *markdown_table(table), ""]
    lines += [*(f"- {note}" for note in category_notes(table)), ""]
    lines += ["## One step, phase by phase", "", "What was live at the most in each phase, and when it had ended.", ""]
    for name, found in steps_with_phases(report):
        lines += [f"### {name}", "", *markdown_table(timeline_table(found)), ""]
    return lines


def _training(training: Mapping[str, Any], metrics: Mapping[str, float | None]) -> list[str]:
    return [
        "## Training",
        "",
        f"{training['epochs']} epochs, {steps(training)} steps in {training['seconds']:.1f} s.",
        "",
        *(f"- {change}" for change in training.get("changes", [])),
        *([""] if training.get("changes") else []),
        *markdown_table([["measure", "on the test data"], *([name, figure(value)] for name, value in metrics.items())]),
        "",
    ]


def device(report: Mapping[str, Any]) -> str:
    """The device in a few words."""
    found = report["device"]
    if report["kind"] == "prediction":
        return f"predicted for {found['type']}, without running on it"
    if found["type"] == "cuda":
        driver = f", driver {found['driver']}" if found.get("driver") else ""
        return f"{found['name']} ({found['total_bytes'] / 2**30:.0f} GiB{driver})"
    return f"CPU: {found['name']}, {found['threads']} of {found['cores']} cores"


def batch(report: Mapping[str, Any]) -> str:
    """What one step was."""
    return f"Memory and time are for one step of {report['samples'] or 'an unknown number of'} samples."


def steps(training: Mapping[str, Any]) -> int:
    """How many steps the training took."""
    return max((len(history) for history in training["losses"].values()), default=0)


def figure(value: float | None) -> str:
    """A metric with four decimals, a dash where there is none."""
    return "–" if value is None else f"{value:.4f}"
