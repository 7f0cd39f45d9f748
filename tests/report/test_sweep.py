"""A sweep's report, from what its jobs have left in their folders."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from mtl_accum import report as reports
from mtl_accum.report import knobs
from mtl_accum.report._sweep import collect, conclusion, glance, sweep_table
from mtl_accum.report._sweep_figures import lines_figure, sweep_plots
from tests.report.examples import EVIL, LIMIT, MIB, job, without_library


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    job(tmp_path, 0, "edition=summed data.batch_size=64", 400, 0.1)
    job(tmp_path, 1, "edition=summed data.batch_size=128", 800, 0.2)
    job(tmp_path, 2, "edition=split data.batch_size=64", 200, 0.05)
    job(tmp_path, 10, "edition=split data.batch_size=128", reason="ran out | of memory")
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_a_row_a_job(folder: Path) -> None:
    sweep = collect(folder)
    assert knobs(sweep) == ["edition", "data.batch_size"]
    assert sweep_table(sweep) == [
        ["job", "edition", "data.batch_size", "peak", "step", "samples / s", "gradient difference", "failure"],
        ["0", "summed", "64", "400.0 MiB", "100.0 ms", "1000", "1.0e-07", ""],
        ["1", "summed", "128", "800.0 MiB", "200.0 ms", "500", "1.0e-07", ""],
        ["2", "split", "64", "200.0 MiB", "50.0 ms", "2000", "1.0e-07", ""],
        ["10", "split", "128", "–", "–", "–", "–", "ran out | of memory"],
    ]
    assert conclusion(sweep) == (
        "4 jobs, 1 of which failed. The least memory: 200.0 MiB with edition=split, data.batch_size=64. The most "
        "samples per second: 2000 with edition=split, data.batch_size=64."
    )


def test_at_a_glance(folder: Path) -> None:
    assert glance(collect(folder)) == [
        ["data.batch_size", "summed", "split", "least memory", "fastest"],
        ["64", "400.0 MiB, 100.0 ms", "200.0 MiB, 50.0 ms", "split", "split"],
        ["128", "800.0 MiB, 200.0 ms", "failed", "summed", "summed"],
    ]
    for number in (1, 10):
        (folder / str(number)).rename(folder / f"aside{number}")
        (folder / f"aside{number}" / ("report.json" if number == 1 else "failure.json")).unlink()
    assert glance(collect(folder)) == [], "nothing but the edition was varied"


def test_a_line_an_edition_against_every_number(folder: Path) -> None:
    sweep = collect(folder)
    drawn = list(sweep_plots(sweep["rows"], knobs(sweep)))
    assert [plot.title for plot in drawn] == ["Memory against data.batch_size", "Time against data.batch_size"]
    figures = map(lines_figure, drawn)
    peaks, times = ({trace.name: (list(trace.x), list(trace.y)) for trace in figure.data} for figure in figures)
    assert peaks == {"summed": ([64, 128], [400, 800]), "split": ([64], [200])}
    assert times == {"summed": ([64, 128], [100, 200]), "split": ([64], [50])}


def test_what_else_is_varied_is_in_the_name(folder: Path) -> None:
    job(folder, 3, "edition=split data.batch_size=64 seed=1", 210)
    sweep = collect(folder)
    names = {name for plot in sweep_plots(sweep["rows"], knobs(sweep)) for name in plot.lines}
    assert names == {"summed, seed=", "split, seed=", "split, seed=1"}


def test_four_files_and_pictures(folder: Path) -> None:
    reports.write_sweep(folder)
    drawn = {path.name for path in (folder / "pictures").iterdir()}
    assert drawn == {"memory_data.batch_size.png", "time_data.batch_size.png"}
    assert all(f"](pictures/{name})" in (folder / "sweep.md").read_text() for name in drawn)
    page = (folder / "sweep.html").read_text()
    assert len(page.encode()) < LIMIT
    assert "ran out | of memory" in without_library(page)
    assert "| 10 | split | 128 | – | – | – | – | ran out \\| of memory |" in (folder / "sweep.md").read_text()
    rows = list(csv.DictReader(io.StringIO((folder / "sweep.csv").read_text())))
    assert [int(row["peak_bytes"]) for row in rows[:3]] == [400 * MIB, 800 * MIB, 200 * MIB]
    assert [row["failure"] for row in rows] == ["", "", "", "ran out | of memory"]
    assert json.loads((folder / "sweep.json").read_text())["kind"] == "sweep"


def test_a_second_sweep_adds_rows_and_replaces_what_it_does_again(folder: Path) -> None:
    reports.write_sweep(folder)
    (folder / "10" / "failure.json").unlink()
    job(folder, 0, "edition=split data.batch_size=128", 390)
    job(folder, 1, "edition=cached data.batch_size=128", 300)
    rows = reports.write_sweep(folder)["rows"]
    known = {(row["overrides"]["edition"], row["overrides"]["data.batch_size"]): row for row in rows}
    assert len(rows) == len(known) == 5
    assert known["split", "128"]["failure"] is None
    assert known["split", "128"]["peak_bytes"] == 390 * MIB
    assert known["summed", "64"]["peak_bytes"] == 400 * MIB


def test_what_is_not_a_report_is_no_row(tmp_path: Path) -> None:
    for number, text in enumerate(["{", "[]", '{"version": 99}']):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "report.json").write_text(text)
    assert reports.write_sweep(tmp_path)["rows"] == []
    assert not (tmp_path / "sweep.json").exists()


def test_values_are_text(tmp_path: Path) -> None:
    job(tmp_path, 0, "name='a<b>' data.batch_size=1", 100)
    job(tmp_path, 1, "name=b data.batch_size=2", reason=EVIL)
    reports.write_sweep(tmp_path)
    page = without_library((tmp_path / "sweep.html").read_text())
    assert "<b>" not in page
    assert "<script>alert" not in page
