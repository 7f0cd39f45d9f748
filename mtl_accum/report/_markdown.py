"""Markdown page of a report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mtl_accum.report._breakdown import breakdown_table, category_notes, steps_with_phases, timeline_table
from mtl_accum.report._escape import code, plain
from mtl_accum.report._pictures import pictures
from mtl_accum.report._plan_tables import plan_markdown
from mtl_accum.report._table import editions_table, plain_table

__all__ = ["markdown"]


def markdown(report: Mapping[str, Any]) -> str:
    """Return a report as one Markdown page."""
    table = editions_table(report)
    training = report.get("training")
    available = pictures(report)
    return "\n".join(
        [
            "# mtl_accum report",
            "",
            code(report["command"]),
            "",
            f"{report['created']}, {plain(device(report))}, seed {report['seed']}",
            "",
            batch(report),
            "",
            "## The editions side by side",
            "",
            plain(table.conclusion),
            "",
            *plain_table([table.columns, *table.rows]),
            "",
            *(f"- {plain(note)}" for note in table.notes),
            "",
            *_picture("peaks", "peak memory of the editions by category", available),
            *_picture("sources", "allocated, reserved, and the driver's figures", available),
            *_picture("tradeoff", "peak memory against time", available),
            *_memory(report, available),
            *(_training(training, report["metrics"], available) if training else []),
            *(["## The plan", "", *plan_markdown(report["plan"], "###")] if "plan" in report else []),
            "## What was run",
            "",
            *(f"- {plain(fact)}" for fact in versions(report)),
            "",
            "```json",
            json.dumps(report["config"], indent=2),
            "```",
            "",
        ]
    )


def _picture(name: str, description: str, available: Iterable[str]) -> list[str]:
    return [f"![{description}](pictures/{name}.png)", ""] if f"{name}.png" in available else []


def _memory(report: Mapping[str, Any], available: Iterable[str]) -> list[str]:
    """Return the sections on the categories of the peak and on the phases of each edition."""
    table = breakdown_table(report)
    if not table:
        return []
    lines = ["## Memory by category", "", *plain_table(table), ""]
    lines += [*(f"- {note}" for note in category_notes(table)), ""]
    lines += ["## One step, phase by phase", "", *_picture("step", "live memory through one step", available)]
    lines += ["The peak of each phase, and the live memory at its end.", ""]
    for name, record in steps_with_phases(report):
        lines += [f"### {plain(name)}", "", *plain_table(timeline_table(record)), ""]
    return lines


def _training(training: Mapping[str, Any], metrics: Mapping[str, float | None], available: Iterable[str]) -> list[str]:
    return [
        "## Training",
        "",
        f"{training['epochs']} epochs, {steps(training)} steps in {training['seconds']:.1f} s.",
        "",
        *(f"- {plain(change)}" for change in training.get("changes", [])),
        *([""] if training.get("changes") else []),
        *_picture("training", "every task's loss at every step", available),
        *(
            line
            for name in available
            if name.startswith("images_")
            for line in _picture(name[:-4], "before and after", available)
        ),
        *plain_table(metrics_table(metrics)),
        "",
    ]


def device(report: Mapping[str, Any]) -> str:
    """Return a description of the device of a report."""
    facts = report["device"]
    if report["kind"] == "prediction":
        return f"predicted for {facts['type']}, without running on it"
    if facts["type"] == "cuda":
        driver = f", driver {facts['driver']}" if facts.get("driver") else ""
        return f"{facts['name']} ({facts['total_bytes'] / 2**30:.0f} GiB{driver})"
    return f"CPU: {facts['name']}, {facts['threads']} of {facts['cores']} cores"


def versions(report: Mapping[str, Any]) -> list[str]:
    """Return the versions of the libraries, and the commit, that a report was made with."""
    libraries = [f"{name} {version}" for name, version in report["versions"].items()]
    return [*libraries, f"git commit {report['git_commit']}"] if report.get("git_commit") else libraries


def batch(report: Mapping[str, Any]) -> str:
    """Return a sentence on the step that figures are for."""
    return f"Memory and time are for one step of {report['samples'] or 'an unknown number of'} samples."


def steps(training: Mapping[str, Any]) -> int:
    """Return the number of steps of a training."""
    return max((len(history) for history in training["losses"].values()), default=0)


def metrics_table(metrics: Mapping[str, float | None]) -> list[list[str]]:
    """Return the table of metrics on the test data."""
    return [["measure", "on the test data"], *([name, figure(value)] for name, value in metrics.items())]


def figure(value: float | None) -> str:
    """Return a metric with four decimals; a dash if there is none."""
    return "–" if value is None else f"{value:.4f}"
