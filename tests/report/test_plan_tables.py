"""A plan as text: the answer, the choice, what was tried, what is left out, and what would help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtl_accum import report as reports
from mtl_accum.report import plan_markdown
from mtl_accum.report._plan_tables import plan_conclusion, plan_sections
from tests.report.example_plan import plan
from tests.report.examples import MIB, explained, report


def tables(plan: dict[str, Any]) -> dict[str, Any]:
    return {section.title: section.table for section in plan_sections(plan)}


def test_the_answer() -> None:
    assert plan_conclusion(plan()) == [
        "Split() fits into the budget of 250.0 MiB (80% of 0.3 GiB): it needs 200.0 MiB where SummedLoss needs "
        "400.0 MiB, in 1.02 times its time.",
        "On the command line: edition=split",
    ]


def test_the_choice_leaves_out_what_is_near() -> None:
    assert tables(plan())["The choice"] == [
        ["schedule", "peak", "memory / SummedLoss", "time / SummedLoss", ""],
        ["SummedLoss()", "400.0 MiB", "1.00", "1.00", "over the budget"],
        ["Split()", "200.0 MiB", "0.50", "1.02", "chosen"],
        ["Cached(chunk_size=8)", "100.0 MiB", "0.25", "1.40", ""],
    ]


def test_what_was_tried() -> None:
    assert tables(plan())["Trials on the device"][1:] == [
        ["Split()", "200.0 MiB", "200.0 ms", ""],
        ["Big()", "300.0 MiB", "–", "does not fit"],
        ["Huge()", "–", "–", "ran out of memory"],
    ]
    assert "Trials on the device" not in tables(plan(trials=[]))


def test_the_rest() -> None:
    found = tables(plan())
    assert found["The largest batch"][1:] == [
        ["Split()", "80"],
        ["SummedLoss()", "none"],
        ["Cached(chunk_size=8)", "any"],
    ]
    assert found["The peak by category"][-1] == ["reached in", "head a backward"]
    assert "The peak by category" not in tables(plan(peak={**explained("predicted", 200), "categories": None}))
    page = "\n".join(plan_markdown(plan()))
    for text in (
        "- Accumulated: trunk.bn uses batch",
        "- trunk chunks: Cached: the same",
        "measuring costs 1.2 s, predicting 0.5 s",
    ):
        assert text in page


def test_nothing_fits() -> None:
    found = plan(chosen=None, advice=["smaller samples"], budget={"size": MIB, "words": "1MiB"})
    assert plan_conclusion(found) == [
        "Nothing fits into the budget of 1.0 MiB (1MiB): the smallest peak of an exact schedule is 200.0 MiB."
    ]
    first, second, *_ = plan_sections(found)
    assert first.table == [["part", "size"], ["parameters and buffers", "30.0 MiB"], ["one sample's trunk", "60.0 MiB"]]
    assert second.lines == ["smaller samples"]


def test_it_is_written_with_its_run(tmp_path: Path) -> None:
    reports.write_plan({"command": "python -m mtl_accum job=plan", "seed": 0, "plan": plan()}, tmp_path)
    written = json.loads((tmp_path / "plan.json").read_text())
    assert (written["kind"], written["version"], written["plan"]) == ("plan", reports.VERSION, plan())
    assert (tmp_path / "plan.md").read_text().startswith("# mtl_accum plan\n\n`python -m mtl_accum job=plan`\n")
    run = report()
    run["training"]["changes"] = ["step 3: Split() ran out of memory"]
    page = reports.markdown({**run, "plan": plan()})
    assert "## The plan\n\nSplit() fits" in page
    assert "### The choice" in page
    assert "- step 3: Split() ran out of memory\n" in page


def test_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports.show_plan(plan(), tmp_path)
    shown = capsys.readouterr().out
    assert "| Split() | 200.0 MiB | 0.50 | 1.02 | chosen |" in shown
    assert shown.index("Left out") < shown.index("Split() fits into") < shown.index(str(tmp_path))
