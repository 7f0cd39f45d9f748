"""Plans from the command line: what is printed reproduces them, training with them, nothing fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command import SMALL, SUMMED_ONLY, mtl_accum

TWO_TASK = ["+experiment=two_task", *SMALL, *SUMMED_ONLY]


@pytest.mark.slow  # planning itself is quick in tests/planning
def test_a_plan_and_what_it_prints_reproduces_it(tmp_path: Path) -> None:
    done = mtl_accum(*TWO_TASK, "job=plan", "budget=4MiB", "hydra.run.dir=plan", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "plan" / "plan.json").read_text())["plan"]
    assert plan["peak"]["peak_bytes"] <= plan["budget"]["size"] == 4 * 2**20
    assert plan["timed_by"] == "timings of the parts"
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("On the command line: "))
    pasted = line.removeprefix("On the command line: ").split()
    assert pasted == plan["chosen"]["overrides"]
    done = mtl_accum(*TWO_TASK, *pasted, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "report.json").read_text())["config"]
    assert config["edition"] == plan["chosen"]["edition"]


@pytest.mark.slow  # a case like it is quick
def test_training_with_what_the_planner_chooses(tmp_path: Path) -> None:
    done = mtl_accum(*TWO_TASK, "edition=auto", "budget=4MiB", "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} >= {"plan.json", "plan.md", "report.json", "model.safetensors"}
    report = json.loads((out / "report.json").read_text())
    assert report["plan"] == json.loads((out / "plan.json").read_text())["plan"]
    row = report["editions"][-1]
    (tensors,) = (record for record in row["memory"] if record["source"] == "tensors")
    assert row["edition"] == "auto"
    assert tensors["peak_bytes"] == pytest.approx(report["plan"]["peak"]["peak_bytes"], rel=1e-3)
    assert tensors["peak_bytes"] <= 4 * 2**20
    assert row["gradient_difference"] <= 1e-5
    assert "## The plan" in (out / "report.md").read_text()


def test_a_plan_that_nothing_fits_is_written_down(tmp_path: Path) -> None:
    done = mtl_accum(*TWO_TASK, "job=plan", "budget=100kB", "device=cuda", "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("mtl_accum: budget: expected at least ")
    assert "Nothing fits into the budget of 0.1 MiB (100kB)" in done.stdout
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["plan"]["chosen"] is None
