"""Tables, pages and pictures out of plain records."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, get_args

import pytest

from mtl_accum import report as reports
from mtl_accum.editions._engine import Kind, label
from mtl_accum.report._breakdown import breakdown_table, category_notes, phase_label, timeline_table
from tests.report.examples import MIB, memory, prediction, report, row


def test_table_on_a_cpu() -> None:
    table = reports.editions_table(report())
    assert table.columns == [
        "edition",
        "live tensors, peak",
        "memory / summed",
        "process, peak",
        "step",
        "time / summed",
        "samples / s",
        "gradient difference",
    ]
    assert table.rows == [
        ["summed", "400.0 MiB", "1.00", "800.0 MiB", "100.0 (100.0 to 200.0) ms", "1.00", "2560", "0.0e+00"],
        ["per_task", "300.0 MiB", "0.75", "–", "150.0 (150.0 to 150.0) ms", "1.50", "1707", "2.0e-07"],
        ["split", "–", "–", "–", "–", "–", "–", "–"],
    ]
    assert "mind the gap" in table.notes
    assert "split was not measured completely: prepare: out of memory" in table.notes
    assert table.conclusion == (
        "Of the peak memory of Edition 1 (summed), Edition 2 (per_task) saved 25.0 % (300.0 MiB instead of 400.0 MiB) "
        "at 1.50 times the time per step."
    )


def test_table_on_a_gpu() -> None:
    table = reports.editions_table(report("cuda"))
    assert table.columns[1:6] == [
        "allocated, peak",
        "memory / summed",
        "reserved, peak",
        "NVML, process",
        "NVML, device",
    ]
    assert table.rows[0][1:6] == ["400.0 MiB", "1.00", "600.0 MiB", "900.0 MiB", "–"]


def test_every_figure_has_its_meaning() -> None:
    notes = reports.editions_table(report("cuda")).notes
    for heading in (
        "allocated, peak",
        "reserved, peak",
        "NVML, process",
        "NVML, device",
        "step",
        "gradient difference",
    ):
        assert any(note.startswith(f"{heading}: ") for note in notes), heading


def test_an_edition_that_needs_more() -> None:
    worse = report()
    worse["editions"][1]["memory"] = [memory("tensors", 500)]
    assert "needed 25.0 % more (500.0 MiB instead of 400.0 MiB)" in reports.editions_table(worse).conclusion


def test_nothing_was_measured() -> None:
    nothing = {**report(), "editions": [row("summed", "x", failure="no"), row("split", "y", failure="no")]}
    assert reports.editions_table(nothing).conclusion.startswith("There is nothing to compare")


def test_markdown() -> None:
    page = reports.markdown(report())
    assert "| per_task | 300.0 MiB | 0.75 | – | 150.0 (150.0 to 150.0) ms | 1.50 | 1707 | 2.0e-07 |" in page
    assert "2 epochs, 3 steps in 1.5 s." in page
    assert "one step of 256 samples." in page
    assert "| accuracy | 0.5000 |" in page
    assert "CPU: A CPU, 2 of 4 cores, seed 3" in page
    assert "A GPU (80 GiB)" in reports.markdown(report("cuda"))


def test_table_of_a_prediction() -> None:
    table = reports.editions_table(prediction())
    assert table.columns == ["edition", "predicted peak", "memory / summed", "reserved", "predicted in"]
    assert table.rows[1] == ["split", "200.0 MiB", "0.50", "–", "0.2 s"]
    assert "cached could not be predicted: refused" in table.notes
    assert table.conclusion == (
        "Of the predicted peak memory of Edition 1 (summed), split saves 50.0 % (200.0 MiB instead of 400.0 MiB)."
    )


@pytest.mark.parametrize(("kind", "less"), [("cpu", 0), ("cuda", 20)])
def test_breakdown(kind: str, less: int) -> None:
    """On a GPU it is the live tensors': the allocator has no categories."""
    assert breakdown_table(report(kind)) == [
        ["at the peak", "summed", "per_task"],
        ["parameters", "1.0 MiB", "1.0 MiB"],
        ["activations", f"{389 - less}.0 MiB", f"{289 - less}.0 MiB"],
        ["temporaries", "10.0 MiB", "10.0 MiB"],
        ["sum: the peak", f"{400 - less}.0 MiB", f"{300 - less}.0 MiB"],
        ["reached in", "head a backward", "head a backward"],
        ["by the operator", "aten.mm.default", "aten.mm.default"],
    ]
    assert [note.partition(":")[0] for note in category_notes(breakdown_table(report(kind)))] == [
        "parameters",
        "activations",
        "temporaries",
    ]
    without = {**report(), "editions": [row("summed", "x", failure="no")]}
    assert breakdown_table(without) == []


def test_timeline() -> None:
    found = report()["editions"][0]["memory"][0]
    assert timeline_table(found) == [
        ["phase", "peak", "left at its end"],
        ["trunk forward", "200.0 MiB", "199.0 MiB"],
        ["head a backward", "400.0 MiB", "399.0 MiB"],
        ["optimizer", "3.0 MiB", "2.0 MiB"],
    ]
    often = {**found, "timeline": [*found["timeline"][:2] * 30, found["timeline"][2]]}
    assert timeline_table(often)[1:] == [
        ["trunk forward (30 times)", "200.0 MiB", "199.0 MiB"],
        ["head a backward (30 times)", "400.0 MiB", "399.0 MiB"],
        ["optimizer", "3.0 MiB", "2.0 MiB"],
    ]


@pytest.mark.parametrize("what", [report(), report("cuda"), prediction()], ids=["cpu", "cuda", "prediction"])
def test_pictures(tmp_path: Path, what: dict[str, Any]) -> None:
    drawn = reports.pictures(what)
    always = {"peaks.png", "step.png"}
    trained = {"training.png", "images_restored_.png"}
    assert set(drawn) == always | {"cpu": trained, "cuda": {*trained, "sources.png"}, "predicted": set()}[_named(what)]
    for name, draw in drawn.items():
        draw(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", data[16:24])
        assert width > 600
        assert height > 200


def _named(what: dict[str, Any]) -> str:
    return "predicted" if what["kind"] == "prediction" else what["device"]["type"]


def test_pictures_are_of_what_there_is() -> None:
    untrained = report()
    untrained["training"]["losses"] = {"a": [], "b": []}
    del untrained["images"]
    assert set(reports.pictures(untrained)) == {"peaks.png", "step.png"}
    untrained["editions"][2] |= {"memory": [memory("tensors", 300)], "step_seconds": [0.1]}
    assert set(reports.pictures(untrained)) == {"peaks.png", "step.png", "tradeoff.png"}
    without = {**untrained, "editions": [row("summed", "x", failure="no")]}
    assert set(reports.pictures(without)) == {"peaks.png"}


def test_markdown_of_a_prediction() -> None:
    page = reports.markdown(prediction())
    assert "predicted for cuda, without running on it, seed 3" in page
    assert "## Training" not in page
    assert "| split | 200.0 MiB | 0.50 | – | 0.2 s |" in page
    assert "### split\n\n| phase | peak | left at its end |" in page


def test_write(tmp_path: Path) -> None:
    written = reports.write(report(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "pictures",
        "report.html",
        "report.json",
        "report.md",
    ]
    page = (tmp_path / "report.md").read_text()
    shown = {line.partition("](pictures/")[2].rstrip(")") for line in page.splitlines() if line.startswith("![")}
    assert shown == {path.name for path in (tmp_path / "pictures").iterdir()}
    assert json.loads((tmp_path / "report.json").read_text()) == written
    assert written["version"] == reports.VERSION
    assert written["editions"][0]["memory"][0]["peak_bytes"] == 400 * MIB


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_nothing(tmp_path: Path, error: type[Any]) -> None:
    def fails(path: Path) -> None:
        path.write_text("half")
        raise error

    with pytest.raises(error):
        reports.write_whole(tmp_path, {"done": lambda path: path.write_text("all"), "weights": fails})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=rf"{tmp_path}/pictures/a.png: could not be written \(No space left on device\)$"):
        reports.write_whole(tmp_path, {"pictures/a.png": full})
    assert not list(tmp_path.iterdir())


def test_nan_and_infinity_are_null_in_json(tmp_path: Path) -> None:
    odd = report()
    odd["metrics"] = {"accuracy": float("nan"), "psnr": float("inf")}
    reports.write(odd, tmp_path)
    text = (tmp_path / "report.json").read_text()
    assert json.loads(text, parse_constant=lambda _: pytest.fail("not JSON"))["metrics"] == {
        "accuracy": None,
        "psnr": None,
    }
    assert "| psnr | – |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("terminal", [True, False])
def test_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    reports.show(report(), tmp_path)
    printed = capsys.readouterr().out
    assert "300.0 MiB" in printed
    assert "Trained 3 steps in 1.5 s on CPU: A CPU" in printed
    assert ("| per_task |" in printed) is not terminal
    assert "head a backward" in printed


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("name", ["trunk", "head digit", "optimizer", "zero_grad"])
def test_reports_label_a_phase_as_the_meters_do(name: str, kind: Any) -> None:
    assert phase_label({"name": name, "kind": kind}) == label(name, kind)
