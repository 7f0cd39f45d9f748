"""A report as Markdown."""

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
    """The whole report as one Markdown page."""
    table = editions_table(report)
    training = report.get("training")
    drawn = pictures(report)
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
            *_picture("peaks", "peak memory of the editions by what it is", drawn),
            *_picture("sources", "allocated, reserved and what the driver sees", drawn),
            *_picture("tradeoff", "peak memory against time", drawn),
            *_memory(report, drawn),
            *(_training(training, report["metrics"], drawn) if training else []),
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


def _picture(name: str, pictured: str, drawn: Iterable[str]) -> list[str]:
    return [f"![{pictured}](pictures/{name}.png)", ""] if f"{name}.png" in drawn else []


def _memory(report: Mapping[str, Any], drawn: Iterable[str]) -> list[str]:
    """What the peak is made of, and the phases of each edition."""
    table = breakdown_table(report)
    if not table:
        return []
    lines = ["## What the memory is", "", *plain_table(table), ""]
    lines += [*(f"- {note}" for note in category_notes(table)), ""]
    lines += ["## One step, phase by phase", "", *_picture("step", "live memory through one step", drawn)]
    lines += ["What was live at the most in each phase, and when it had ended.", ""]
    for name, found in steps_with_phases(report):
        lines += [f"### {plain(name)}", "", *plain_table(timeline_table(found)), ""]
    return lines


def _training(training: Mapping[str, Any], metrics: Mapping[str, float | None], drawn: Iterable[str]) -> list[str]:
    return [
        "## Training",
        "",
        f"{training['epochs']} epochs, {steps(training)} steps in {training['seconds']:.1f} s.",
        "",
        *(f"- {plain(change)}" for change in training.get("changes", [])),
        *([""] if training.get("changes") else []),
        *_picture("training", "every task's loss at every step", drawn),
        *(
            line
            for name in drawn
            if name.startswith("images_")
            for line in _picture(name[:-4], "before and after", drawn)
        ),
        *plain_table(metrics_table(metrics)),
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


def versions(report: Mapping[str, Any]) -> list[str]:
    """What it ran with."""
    found = [f"{name} {version}" for name, version in report["versions"].items()]
    return [*found, f"git commit {report['git_commit']}"] if report.get("git_commit") else found


def batch(report: Mapping[str, Any]) -> str:
    """What one step was."""
    return f"Memory and time are for one step of {report['samples'] or 'an unknown number of'} samples."


def steps(training: Mapping[str, Any]) -> int:
    """How many steps the training took."""
    return max((len(history) for history in training["losses"].values()), default=0)


def metrics_table(metrics: Mapping[str, float | None]) -> list[list[str]]:
    """What was found on the test data."""
    return [["measure", "on the test data"], *([name, figure(value)] for name, value in metrics.items())]


def figure(value: float | None) -> str:
    """A metric with four decimals, a dash where there is none."""
    return "–" if value is None else f"{value:.4f}"
