"""The `report` job: rebuild reports from their JSON, merge several into one, and compare two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl_accum.jobs._run import Run
from mtl_accum.report import (
    knobs,
    mib,
    milliseconds,
    plain,
    plain_table,
    read,
    row_of,
    show_path,
    show_table,
    step_time,
    timestamp,
    write,
    write_plan,
    write_rows,
    write_whole,
)

__all__ = ["rebuild"]


def rebuild(*, path: str | Sequence[str] | None, before: str | None, run: Run) -> None:
    """Rebuild a report, merge several, or compare two.

    Args:
        path: Folder of a run, prediction, plan or sweep, or its JSON file; the report is rebuilt beside the JSON.
            Several paths become one sweep, in the run's folder.
        before: Another run or sweep; the changes from it to `path` are shown in per cent.
        run: Folder for merged reports and comparisons.

    Raises:
        ValueError: The path is missing, or has no report of a known kind.
    """
    given = list(path) if isinstance(path, list | tuple) else [path]
    if not given or not all(isinstance(one, str) and one for one in given):
        shown = "none" if path is None else repr(path)
        raise ValueError(f"path must be the folder of a run or sweep, or several as [one,two]; found {shown}")
    if before is not None and not isinstance(before, str):
        raise ValueError(f"before must be the folder of a run or sweep, or null; found {before!r}")
    paths = [Path(str(one)) for one in given]
    if before is not None:
        _compare(Path(before), paths, run.folder)
    elif len(paths) > 1:
        rows = [row for one in paths for row in _rows(one)]
        write_rows(run.folder, rows)
        show_path("Sweep", run.folder / "sweep.html")
    else:
        _rebuild_one(paths[0])


def _rebuild_one(path: Path) -> None:
    file, content = read(path)
    if content["kind"] == "sweep":
        write_rows(file.parent, content["rows"])
    elif content["kind"] == "plan":
        write_plan(content, file.parent)
    elif content["kind"] == "failure":
        raise ValueError(f"{file}: this job has failed, there is no report: {content['reason']}")
    else:
        write(content, file.parent)
    show_path("Report", file.parent)


def _rows(path: Path, name: str = "path") -> list[dict[str, Any]]:
    """Read the rows of a run or sweep; `name` is the argument that a message names."""
    file, content = read(path, name)
    if content["kind"] == "plan":
        raise ValueError(f"{file}: expected runs or sweeps, found a plan")
    rows: list[dict[str, Any]] = content["rows"] if content["kind"] == "sweep" else _rows_of_run(file, content)
    return rows


def _rows_of_run(file: Path, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per edition that a run has measured."""
    job = file.parent.name
    if len(content.get("editions", [])) < 2:
        return [row_of(job, content)]
    rows = []
    for edition in content["editions"]:
        row = row_of(job, {**content, "editions": [edition]})
        rows.append({**row, "overrides": {**row["overrides"], "edition": edition["edition"]}})
    return rows


def _compare(before: Path, paths: Sequence[Path], folder: Path) -> None:
    """Print the changes from one run or sweep to another, and write them to `comparison.md`."""
    if len(paths) != 1:
        raise ValueError(f"before: expected one path to compare with it, found {len(paths)}")
    old_rows, new_rows = _rows(before, "before"), _rows(paths[0])
    # Knobs that vary inside a side; what differs between the two sides is what is compared.
    varied = list(dict.fromkeys(name for rows in (old_rows, new_rows) for name in knobs({"rows": rows})))
    old, new = ({_settings(row, varied): row for row in rows} for rows in (old_rows, new_rows))
    if not old.keys() & new.keys():
        raise ValueError(f"before={before}: expected jobs or editions that {paths[0]} has too, found none")
    table, only = _changes(old, new)
    title = f"{timestamp()}: {plain(str(before))} before, {plain(str(paths[0]))} after"
    lines = ["# mtl_accum comparison", "", title, "", *plain_table(table), "", *(f"- {plain(line)}" for line in only)]
    page = "\n".join([*lines, ""])
    write_whole(folder, {"comparison.md": lambda path: path.write_text(page, encoding="utf-8")})
    show_table(table, only)
    show_path("Comparison", folder / "comparison.md")


def _changes(
    old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]
) -> tuple[list[list[str]], list[str]]:
    """Return the table of the settings on both sides, and a line for every setting on one side alone."""
    table = [["what", "peak before", "peak", "change", "step before", "step", "change"]]
    for setting, row in new.items():
        if setting in old:
            peaks = _change(old[setting]["peak_bytes"], row["peak_bytes"], mib)
            times = _change(step_time(old[setting]), step_time(row), milliseconds)
            table.append([setting or "the same", *peaks, *times])
    only = [f"only before: {name}" for name in old if name not in new]
    only += [f"only after: {name}" for name in new if name not in old]
    return table, only


def _settings(row: Mapping[str, Any], varied: Iterable[str]) -> str:
    return " ".join(f"{name}={row['overrides'].get(name, '')}" for name in varied)


def _change(before: float | None, after: float | None, form: Callable[[Any], str]) -> list[str]:
    """Return a figure before and after, and its change in per cent."""
    change = f"{100 * (after / before - 1):+.1f} %" if before and after else "–"
    return [form(before), form(after), change]
