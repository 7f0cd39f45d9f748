"""An edition in the form of a loss from the command line: training, side by side, in a sweep, planned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli.command import SMALL, SUMMED_ONLY, mtl_accum

TWO_TASK = ["+experiment=two_task", *SMALL]
LOSS = "AsLoss(Split())"


@pytest.mark.slow  # the parts of it are quick
def test_training_with_it_and_measuring_it(tmp_path: Path) -> None:
    """The same weights as with `Split`, to the last bit; and a row of its own beside it, whose phases add up."""
    rows = ["+edition@compare.editions.split_loss=split_loss", "~edition@compare.editions.per_task"]
    weights = {}
    for edition in ("split", "split_loss"):
        more = rows if edition == "split_loss" else SUMMED_ONLY
        done = mtl_accum(*TWO_TASK, f"edition={edition}", *more, f"hydra.run.dir={edition}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        weights[edition] = load_file(tmp_path / edition / "model.safetensors")
    assert all((value == weights["split"][name]).all() for name, value in weights["split_loss"].items())
    report = json.loads((tmp_path / "split_loss" / "report.json").read_text())
    assert report["config"]["edition"]["edition"]["_target_"] == "mtl_accum.Split"
    summed, split, loss = report["editions"]
    assert [row["edition"] for row in report["editions"]] == ["summed", "split", "split_loss"]
    assert [row["failure"] for row in report["editions"]] == [None] * 3
    assert loss["gradient_difference"] <= 1e-5
    peaks = [next(r for r in row["memory"] if r["source"] == "tensors")["peak_bytes"] for row in (summed, split, loss)]
    assert peaks[0] > peaks[2] >= peaks[1]
    (record,) = (record for record in loss["memory"] if record["source"] == "tensors")
    assert sum(record["categories"].values()) == record["peak_bytes"]
    names = [(phase["name"], phase["kind"]) for phase in record["timeline"]]
    assert names[:2] == [("trunk", "forward"), ("head digit", "forward")]
    assert names[-3:] == [("trunk", "backward"), ("optimizer", "optimizer"), ("zero_grad", "zero_grad")]
    assert max(phase["peak_bytes"] for phase in record["timeline"]) == record["peak_bytes"]
    assert "AsLoss" in (tmp_path / "split_loss" / "report.md").read_text()
    resumed = mtl_accum(
        *(*TWO_TASK, *SUMMED_ONLY, "edition=split_loss", "epochs=2", "resume=split_loss", "hydra.run.dir=more"),
        cwd=tmp_path,
    )
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.slow  # a case like it is quick
def test_a_sweep_over_forms(tmp_path: Path) -> None:
    done = mtl_accum(
        *("-m", *TWO_TASK, "train=false", "edition=split,split_loss,cached_loss", "hydra.sweep.dir=sweep"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["rows"]
    assert [row["overrides"]["edition"] for row in rows] == ["split", "split_loss", "cached_loss"]
    assert all(row["peak_bytes"] and row["failure"] is None for row in rows)


@pytest.mark.slow  # a case like it is quick
def test_a_plan_for_a_trainer(tmp_path: Path) -> None:
    plan = ["job=plan", "budget=4MiB", "job.form=loss", "hydra.run.dir=plan"]
    done = mtl_accum(*TWO_TASK, *SUMMED_ONLY, *plan, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "plan" / "plan.json").read_text())["plan"]
    assert written["form"] == "loss"
    assert written["chosen"]["overrides"][0] == "edition=as_loss"
    call = written["chosen"]["call"]
    assert call.startswith("total, losses = ") and call.endswith(".loss(trunk, tasks, batch), then total.backward()")
    assert call in done.stdout
    check = ["job=check", "+edition@check.editions.planned=split_loss", "hydra.run.dir=check"]
    done = mtl_accum(*TWO_TASK, *check, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| planned | float64 |" in done.stdout


def test_predicted(tmp_path: Path) -> None:
    rows = ["+edition@compare.editions.split_loss=split_loss", "+edition@compare.editions.cached_loss=cached_loss"]
    done = mtl_accum(*TWO_TASK, "job=predict", *rows, "device=cpu", "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["failure"] for row in report["editions"]] == [None] * 5
    assert list(report["editions"][3]["memory"][0]["categories"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("job.form=lose", "job.form must be one of forward_backward, loss; found 'lose'"),
        ("edition=as_loss edition@edition.edition=per_task", "edition must have a loss, found PerTask()"),
    ],
)
def test_refused_in_one_line(tmp_path: Path, override: str, message: str) -> None:
    job = ["job=plan"] if "job" in override else []
    done = mtl_accum(*TWO_TASK, *job, *override.split(), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert message in done.stderr, done.stderr
