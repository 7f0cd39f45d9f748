"""The job that makes reports anew from their JSON, several into one, and two against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

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


class _Run(Protocol):
    folder: Path


def rebuild(*, path: str | Sequence[str] | None, before: str | None, run: _Run) -> None:
    """Make a report anew, merge several, or compare two.

    Args:
        path: the folder of a run, prediction, plan or sweep, or its JSON file: its report is written beside it anew;
            several: they become one sweep, in the run's folder.
        before: another run or sweep: the differences from it to `path` are shown in per cent.
        run: its folder is for what is merged or compared.

    Raises:
        ValueError: path is missing, or something there is no report that is known here.
    """
    several = list(path) if isinstance(path, list | tuple) else [path]
    if not several or not all(isinstance(one, str) and one for one in several):
        found = "none" if path is None else repr(path)
        raise ValueError(f"path must be the folder of a run or sweep, or several as [one,two]; found {found}")
    if before is not None and not isinstance(before, str):
        raise ValueError(f"before must be the folder of a run or sweep, or null; found {before!r}")
    paths = [Path(str(one)) for one in several]
    if before is not None:
        _compare(Path(before), paths, run.folder)
    elif len(paths) > 1:
        rows = [row for one in paths for row in _rows(one)]
        write_rows(run.folder, rows)
        show_path("Sweep", run.folder / "sweep.html")
    else:
        _again(paths[0])


def _again(path: Path) -> None:
    file, found = read(path)
    if found["kind"] == "sweep":
        write_rows(file.parent, found["rows"])
    elif found["kind"] == "plan":
        write_plan(found, file.parent)
    elif found["kind"] == "failure":
        raise ValueError(f"{file}: this job has failed, there is no report: {found['reason']}")
    else:
        write(found, file.parent)
    show_path("Report", file.parent)


def _rows(path: Path, name: str = "path") -> list[dict[str, Any]]:
    file, found = read(path, name)
    if found["kind"] == "plan":
        raise ValueError(f"{file}: expected runs or sweeps, found a plan")
    rows: list[dict[str, Any]] = found["rows"] if found["kind"] == "sweep" else _of_editions(file, found)
    return rows


def _of_editions(file: Path, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row an edition: a run measures several."""
    job = file.parent.name
    if len(found.get("editions", [])) < 2:
        return [row_of(job, found)]
    rows = []
    for edition in found["editions"]:
        row = row_of(job, {**found, "editions": [edition]})
        rows.append({**row, "overrides": {**row["overrides"], "edition": edition["edition"]}})
    return rows


def _compare(before: Path, paths: Sequence[Path], folder: Path) -> None:
    if len(paths) != 1:
        raise ValueError(f"before: expected one path to compare with it, found {len(paths)}")
    rows = _rows(before, "before"), _rows(paths[0])
    varied = {name: None for side in rows for name in knobs({"rows": side})}  # not what differs between the two
    old, new = ({_settings(row, varied): row for row in side} for side in rows)
    common = [setting for setting in new if setting in old]
    if not common:
        raise ValueError(f"before={before}: expected jobs or editions that {paths[0]} has too, found none")
    table = [["what", "peak before", "peak", "change", "step before", "step", "change"]]
    for setting in common:
        one, other = old[setting], new[setting]
        table.append(
            [
                setting or "the same",
                *_change(one["peak_bytes"], other["peak_bytes"], mib),
                *_change(step_time(one), step_time(other), milliseconds),
            ]
        )
    alone = [f"only before: {name}" for name in old if name not in new]
    alone += [f"only after: {name}" for name in new if name not in old]
    lines = [
        "# mtl_accum comparison",
        "",
        f"{timestamp()}: {plain(str(before))} before, {plain(str(paths[0]))} after",
        "",
    ]
    lines += [*plain_table(table), "", *(f"- {plain(line)}" for line in alone)]
    page = "\n".join([*lines, ""])
    write_whole(folder, {"comparison.md": lambda path: path.write_text(page, encoding="utf-8")})
    show_table(table, alone)
    show_path("Comparison", folder / "comparison.md")


def _settings(row: Mapping[str, Any], varied: Iterable[str]) -> str:
    return " ".join(f"{name}={row['overrides'].get(name, '')}" for name in varied)


def _change(before: float | None, after: float | None, said: Any) -> list[str]:
    change = f"{100 * (after / before - 1):+.1f} %" if before and after else "–"
    return [said(before), said(after), change]
