"""Reports of a sweep: its jobs' results as a table, a page, and plots against everything that was varied."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from mtl_accum.report._escape import plain
from mtl_accum.report._markdown import device, versions
from mtl_accum.report._page import PageSection, markup, render
from mtl_accum.report._pictures import plot_pictures
from mtl_accum.report._read import KINDS, VERSION, read
from mtl_accum.report._sweep_figures import Plot, lines_figure, sweep_plots
from mtl_accum.report._table import (
    difference,
    mib,
    milliseconds,
    peak_bytes,
    peak_source,
    plain_table,
    samples_per_second,
    step_time,
)
from mtl_accum.report._write import timestamp, write_whole

__all__ = ["collect", "knobs", "row_of", "write_rows", "write_sweep"]

_REPORT, _FAILURE, _SWEEP = (KINDS[kind] for kind in ("run", "failure", "sweep"))


def write_sweep(folder: Path) -> dict[str, Any]:
    """Write `sweep.json`, `sweep.csv`, `sweep.md` and `sweep.html` from the files of the sweep's jobs.

    Args:
        folder: Folder of the sweep, with a folder per job. Rows of an earlier sweep in it stay, except those of jobs
            that ran again.

    Returns:
        The sweep as it was written; without rows if no job has written anything.

    Raises:
        OSError: The folder cannot be written.
    """
    sweep = collect(folder)
    if sweep["rows"]:
        _write(sweep, folder)
    return sweep


def write_rows(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the files of a sweep from rows.

    Args:
        folder: Folder of the sweep.
        rows: Rows as `row_of` returns them; of several with the same settings the last one counts.

    Raises:
        OSError: The folder cannot be written.
    """
    _write(_sweep({_key(row): row for row in rows}), folder)


def _sweep(rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return {"version": VERSION, "kind": "sweep", "created": timestamp(), "rows": list(rows.values())}


def _write(sweep: dict[str, Any], folder: Path) -> None:
    table, pivot, answer = sweep_table(sweep), glance(sweep), conclusion(sweep)
    plots = list(sweep_plots(sweep["rows"], knobs(sweep)))
    drawn = plot_pictures(plots)
    tables = [line for cells in (pivot, table) if cells for line in (*plain_table(cells), "")]
    lines = [*tables, *(f"![{plain(plot.title)}](pictures/{name})\n" for plot, name in zip(plots, drawn, strict=True))]
    page = "\n".join(["# mtl_accum sweep", "", plain(answer), "", *lines])
    write_whole(
        folder,
        {
            **{f"pictures/{name}": draw for name, draw in drawn.items()},
            "sweep.html": lambda path: path.write_text(_page(sweep, table, pivot, answer, plots), encoding="utf-8"),
            "sweep.md": lambda path: path.write_text(page, encoding="utf-8"),
            "sweep.csv": lambda path: path.write_text(_csv(sweep), encoding="utf-8"),
            _SWEEP: lambda path: path.write_text(json.dumps(sweep, indent=1), encoding="utf-8"),
        },
    )


def _page(
    sweep: Mapping[str, Any], table: list[list[str]], pivot: list[list[str]], answer: str, plots: Sequence[Plot]
) -> str:
    varied = knobs(sweep)
    sections = []
    if pivot:
        text = "Peak memory and time of one step, with a column per edition."
        sections.append(PageSection("At a glance", text, tables=[pivot]))
    for number, plot in enumerate(plots):
        figure = markup(lines_figure(plot), f"sweep{number}")
        sections.append(PageSection(plot.title, "One step, with a line per edition.", figure))
    sections.append(PageSection("Every job", tables=[table]))
    common = [f"{name}={value}" for name, value in sweep["rows"][0]["overrides"].items() if name not in varied]
    environment = dict.fromkeys(fact for row in sweep["rows"] for fact in row["where"])
    return render(
        title="mtl_accum: sweep",
        command=f"over {', '.join(varied) or 'nothing'}",
        started=sweep["created"],
        answer=answer,
        sections=sections,
        facts=[*([" ".join(common)] if common else []), *environment],
        config="",
    )


def collect(folder: Path) -> dict[str, Any]:
    """Return a sweep from the files that its jobs and an earlier sweep wrote."""
    rows: dict[str, dict[str, Any]] = {}
    for row in _read(folder / _SWEEP).get("rows", []):
        rows[_key(row)] = row
    for job in sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: _number(path.name)):
        report = _read(job / _REPORT) or _read(job / _FAILURE)
        if report:
            row = row_of(job.name, report)
            rows[_key(row)] = row
    return _sweep(dict(sorted(rows.items(), key=lambda item: _number(item[1]["job"]))))


def knobs(sweep: Mapping[str, Any]) -> list[str]:
    """Return the names of everything that was varied, in the order of the command line."""
    values: dict[str, set[str]] = {}
    for row in sweep["rows"]:
        for name in row["overrides"]:
            values.setdefault(name, set())
    for row in sweep["rows"]:
        for name, different in values.items():
            different.add(row["overrides"].get(name, ""))
    return [name for name, different in values.items() if len(different) > 1]


def sweep_table(sweep: Mapping[str, Any]) -> list[list[str]]:
    """Return a table with a row per job; the last column has the reason of a failure."""
    varied = knobs(sweep)
    head = ["job", *varied, "peak", "step", "samples / s", "gradient difference", "failure"]
    return [head, *(_sweep_row(row, varied) for row in sweep["rows"])]


def _sweep_row(row: Mapping[str, Any], varied: Sequence[str]) -> list[str]:
    return [
        row["job"],
        *(row["overrides"].get(name, "") for name in varied),
        mib(row["peak_bytes"]),
        milliseconds(step_time(row)),
        samples_per_second(row, row["samples"]),
        difference(row),
        row["failure"] or "",
    ]


def glance(sweep: Mapping[str, Any]) -> list[list[str]]:
    """Return a table of peak and time with a row per setting and a column per edition, and the best editions.

    It is empty unless editions and something else were varied.
    """
    varied = knobs(sweep)
    others = [name for name in varied if name != "edition"]
    if "edition" not in varied or not others:
        return []
    editions = list(dict.fromkeys(row["overrides"].get("edition", "") for row in sweep["rows"]))
    settings: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in sweep["rows"]:
        setting = tuple(row["overrides"].get(name, "") for name in others)
        settings.setdefault(setting, {})[row["overrides"].get("edition", "")] = row
    cells = [
        [
            *(*setting, *(_cell(by_edition.get(edition)) for edition in editions)),
            *(_least(by_edition, lambda row: row["peak_bytes"]), _least(by_edition, step_time)),
        ]
        for setting, by_edition in settings.items()
    ]
    return [[*others, *editions, "least memory", "fastest"], *cells]


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    seconds = f", {milliseconds(step_time(row))}" if row["step_seconds"] else ""
    return "failed" if row["failure"] else f"{mib(row['peak_bytes'])}{seconds}"


def _least(rows: Mapping[str, Mapping[str, Any]], figure: Callable[[Mapping[str, Any]], float | None]) -> str:
    """Return the edition whose figure is the smallest."""
    known = {edition: value for edition, row in rows.items() if (value := figure(row)) is not None}
    return min(known, key=lambda edition: known[edition]) if known else "–"


def conclusion(sweep: Mapping[str, Any]) -> str:
    """Return the number of jobs and of failures, the least memory and the highest throughput."""
    rows = sweep["rows"]
    failed = [row for row in rows if row["failure"]]
    measured = [row for row in rows if row["peak_bytes"] is not None]
    text = f"{len(rows)} jobs" if len(rows) != 1 else "1 job"
    if failed:
        text += f", {len(failed)} of which failed"
    if measured:
        least = min(measured, key=lambda row: row["peak_bytes"])
        text += f". The least memory: {mib(least['peak_bytes'])} with {_settings(sweep, least)}"
    timed = [row for row in measured if row["step_seconds"] and row["samples"]]
    if timed:
        fastest = max(timed, key=lambda row: row["samples"] / median(row["step_seconds"]))
        speed = samples_per_second(fastest, fastest["samples"])
        text += f". The most samples per second: {speed} with {_settings(sweep, fastest)}"
    return f"{text}."


def _settings(sweep: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    varied = [f"{name}={row['overrides'].get(name, '')}" for name in knobs(sweep)]
    return ", ".join(varied) or f"job {row['job']}"


def row_of(job: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a job in a sweep: its settings, and the figures of its first edition.

    Args:
        job: Name of the job's folder.
        report: Report or failure that the job wrote.
    """
    row: dict[str, Any] = {
        "job": job,
        "overrides": _overrides(report["command"]),
        "edition": None,
        "source": None,
        "peak_bytes": None,
        "step_seconds": [],
        "samples": report.get("samples"),
        "gradient_difference": None,
        "gradient_rounding": False,
        "metrics": report.get("metrics", {}),
        "where": [device(report), *versions(report)] if "device" in report else [],
        "failure": report.get("reason"),
    }
    editions = report.get("editions")
    if editions:
        source, first = peak_source(report), editions[0]
        row |= {
            "edition": first["edition"],
            "source": source,
            "peak_bytes": peak_bytes(first, source),
            "step_seconds": first["step_seconds"],
            "gradient_difference": first["gradient_difference"],
            "gradient_rounding": first.get("gradient_rounding", False),
            "failure": first["failure"],
        }
    return row


def _overrides(command: str) -> dict[str, str]:
    assignments = (word.partition("=") for word in shlex.split(command) if "=" in word)
    return {name.lstrip("+"): value for name, _, value in assignments}


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps(row["overrides"], sort_keys=True)


def _number(job: str) -> tuple[int, str]:
    return (int(job) if job.isdecimal() else 2**62, job)


def _read(path: Path) -> dict[str, Any]:
    """Return a report; empty if there is none, or none that is complete."""
    try:
        return read(path)[1]
    except (OSError, ValueError):
        return {}


def _csv(sweep: Mapping[str, Any]) -> str:
    varied = knobs(sweep)
    metrics = sorted({name for row in sweep["rows"] for name in row["metrics"]})
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        ["job", *varied, "peak_bytes", "step_seconds", "samples", "gradient_difference", *metrics, "failure"]
    )
    for row in sweep["rows"]:
        values = [row["peak_bytes"], step_time(row), row["samples"], row["gradient_difference"]]
        varied_values: Iterable[str] = (row["overrides"].get(name, "") for name in varied)
        measured = (row["metrics"].get(name, "") for name in metrics)
        writer.writerow([row["job"], *varied_values, *values, *measured, row["failure"] or ""])
    return text.getvalue()
