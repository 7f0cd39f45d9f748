"""What the README says was measured stands in a committed report, and a figure that does not is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import readme

ROOT = Path(__file__).resolve().parents[2]
PAGE = """# A page

took <!--= speed: rows.0.seconds: .1f ms -->2.5 ms<!--/-->, of <!--= speed: share: .0f % -->40 %<!--/--> it was

<!-- from experiments/speed/results.json: steps -->
| edition | step |
| --- | ---: |
| split | 2.5 |
<!-- end -->
"""
RESULTS = {
    "rows": [{"seconds": 0.0025}],
    "share": 0.4,
    "tables": {"steps": [["edition", "step"], ["split", "2.5"]]},
}


@pytest.fixture
def root(tmp_path: Path) -> Any:
    (tmp_path / "experiments" / "speed").mkdir(parents=True)
    (tmp_path / "tests" / "training" / "checkpoint").mkdir(parents=True)
    (tmp_path / "tests" / "training" / "checkpoint" / "test_faults.py").write_text("wanted=200")
    write(tmp_path, PAGE, RESULTS)
    return tmp_path


def write(root: Any, page: Any, results: Any) -> None:
    (root / "README.md").write_text(page, encoding="utf-8")
    (root / "experiments" / "speed" / "results.json").write_text(json.dumps(results), encoding="utf-8")


def run(root: Any, *arguments: Any) -> Any:
    return readme.main([*arguments, f"--root={root}"])


def test_the_readme_says_what_the_reports_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert readme.main([]) == 0, capsys.readouterr().out
    assert len(readme.bound((ROOT / "README.md").read_text(encoding="utf-8"))) >= 5


def test_what_agrees_stays(root: Any) -> None:
    assert run(root) == 0
    assert run(root, "--write") == 0
    assert (root / "README.md").read_text(encoding="utf-8") == PAGE


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"rows": [{"seconds": 0.0031}]}, ["experiments/speed/results.json: rows.0.seconds", "-2.5 ms", "+3.1 ms"]),
        ({"share": 0.42}, ["experiments/speed/results.json: share", "-40 %", "+42 %"]),
        (
            {"tables": {"steps": [["edition", "step"], ["split", "3.1"]]}},
            ["experiments/speed/results.json: steps", "README.md, line 6", "-| split | 2.5 |", "+| split | 3.1 |"],
        ),
    ],
)
def test_a_changed_figure_is_found_and_written(
    root: Any, capsys: pytest.CaptureFixture[str], changed: Any, named: Any
) -> None:
    write(root, PAGE, {**RESULTS, **changed})
    assert run(root) == 1
    out = capsys.readouterr().out
    assert [word for word in named if word not in out] == []
    assert run(root, "--write") == 0
    assert run(root) == 0


@pytest.mark.parametrize(
    "sentence",
    ["it took 3.2 ms", "| split | 78 MiB |", "0.71 of it", "2 times as fast", "12 % more", "a difference of 1.7e-06"],
)
def test_a_figure_of_no_report_is_found(root: Any, capsys: pytest.CaptureFixture[str], sentence: str) -> None:
    write(root, PAGE + sentence + "\n", RESULTS)
    assert run(root) == 1
    assert "README.md, line 10: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "sentence", ["`dropout=0.1`", "a 12 GB\ncard", "    --budget 6GiB", "[two](a_0.5.md)", "at 2.x.y"]
)
def test_what_nobody_measured_is_not(root: Any, sentence: str) -> None:
    write(root, PAGE + sentence + "\n", RESULTS)
    assert run(root) == 0


def test_a_setting_is_held_against_the_code(root: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write(root, PAGE + "kills one 200 times\n", RESULTS)
    assert run(root) == 0
    (root / "tests" / "training" / "checkpoint" / "test_faults.py").write_text("wanted=100")
    assert run(root) == 1
    assert "200 times" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("of <!--= speed: rows.7.seconds: .1f -->1<!--/-->", "experiments/speed/results.json: rows.7.seconds"),
        ("of <!--= slow: share: .1f -->1<!--/-->", "there is no such report"),
        ("of <!--= speed: share: .1f KiB -->1<!--/-->", "expected a unit among MiB"),
        ("of <!--= speed: share: .1f -->1", "every mark with its end"),
        ("<!--= speed: share: .1f -->0.4<!--/-->", "at the beginning of a line"),
        ("<!-- from experiments/speed/results.json: no -->\n<!-- end -->", "one of its tables, steps"),
    ],
)
def test_a_mark_that_leads_nowhere(root: Any, capsys: pytest.CaptureFixture[str], mark: str, message: str) -> None:
    write(root, PAGE + mark + "\n", RESULTS)
    assert run(root) == 1
    assert message in capsys.readouterr().err


def test_a_table_of_a_page_without_json(root: Any) -> None:
    (root / "experiments" / "speed" / "README.md").write_text("# Old\n\n| a | b |\n| --- | --- |\n| c | 1.5 |\n")
    table = "<!-- from experiments/speed/README.md: 1 -->\n| a | b |\n| --- | --- |\n| c | {} |\n<!-- end -->\n"
    write(root, PAGE + table.format("1.5"), RESULTS)
    assert run(root) == 0
    write(root, PAGE + table.format("1.4"), RESULTS)
    assert run(root) == 1
