"""Sweeps and reports from the command line: rows, failures, jobs side by side, merged and compared."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import SMALL, forked, mtl_accum, started

TWO_TASK = ["+experiment=two_task", *SMALL]


def test_multirun(tmp_path: Path) -> None:
    done = mtl_accum("-m", *TWO_TASK, "edition=summed,split", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    reports = [json.loads((tmp_path / "sweep" / job / "report.json").read_text()) for job in "01"]
    assert reports[0]["training"]["losses"]["digit"] == pytest.approx(
        reports[1]["training"]["losses"]["digit"], rel=1e-4
    )
    assert reports[0]["config"]["edition"] != reports[1]["config"]["edition"]
    assert [[row["edition"] for row in report["editions"]] for report in reports] == [["summed"], ["split"]]
    sweep = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [row["overrides"]["edition"] for row in sweep["rows"]] == ["summed", "split"]
    assert sweep["rows"][1]["peak_bytes"] < sweep["rows"][0]["peak_bytes"]
    assert set(sweep["rows"][0]["metrics"]) == {"accuracy", "psnr_restored", "psnr_noisy"}


@pytest.mark.slow  # a case like it is quick
def test_a_job_that_fails_is_a_row_of_its_sweep(tmp_path: Path) -> None:
    sweep = ["train=false", "model.trunk.width=8,7", "hydra.sweep.dir=sweep"]
    done = mtl_accum("-m", *TWO_TASK, *sweep, cwd=tmp_path)
    assert done.returncode == 1
    reason = "model.trunk: num_channels (7) must be divisible by num_groups (4)"
    assert f"mtl_accum: job 1: {reason}" in done.stderr
    assert "mtl_accum: 1 of 2 jobs failed; sweep/sweep.md says why" in done.stderr
    assert "Traceback" not in done.stderr
    good, bad = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["rows"]
    assert (good["failure"], bad["failure"], bad["peak_bytes"]) == (None, reason, None)
    assert good["peak_bytes"] > 0
    assert "training" not in json.loads((tmp_path / "sweep" / "0" / "report.json").read_text())
    assert not list((tmp_path / "sweep").rglob("*.safetensors"))
    assert reason in (tmp_path / "sweep" / "sweep.md").read_text()
    again = mtl_accum("-m", *TWO_TASK, "train=false", "data.batch_size=64,32", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert again.returncode == 1, "the failed row is still there"
    assert len(json.loads((tmp_path / "sweep" / "sweep.json").read_text())["rows"]) == 4


@pytest.mark.slow
def test_jobs_side_by_side_measure_one_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs hydra-joblib-launcher")
    sweep = ["train=false", "num_tasks=2,3", "model.width=8", "compare.steps=1", "data.batch_size=64"]
    launcher = ["hydra/launcher=joblib", "hydra.sweep.dir=sweep"]
    # Of an interpreter: joblib's workers end with the interpreter that they belong to, not with a forked process.
    done = mtl_accum("-m", "+experiment=many_tasks", *sweep, *launcher, cwd=tmp_path, python=sys.executable)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["rows"]
    assert [(row["overrides"]["num_tasks"], row["failure"]) for row in rows] == [("2", None), ("3", None)]
    assert all(row["peak_bytes"] and row["step_seconds"] for row in rows)


@pytest.mark.slow
def test_a_sweep_as_slurm_runs_it(tmp_path: Path) -> None:
    """Each job in a process of its own, started from a pickle, with its files under `.submitit`."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs hydra-submitit-launcher")
    sweep = ["train=false", "num_tasks=2,3", "model.width=8,7", "compare.steps=1", "data.batch_size=64"]
    launcher = ["hydra/launcher=submitit_local", "hydra.sweep.dir=sweep"]
    done = mtl_accum("-m", "+experiment=many_tasks", *sweep, *launcher, cwd=tmp_path, python=sys.executable)
    assert done.returncode == 1
    assert "2 of 4 jobs failed; sweep/sweep.md says why" in done.stderr
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["rows"]
    known = {(row["overrides"]["num_tasks"], row["overrides"]["model.width"]): row for row in rows}
    assert all(known[tasks, "8"]["peak_bytes"] for tasks in "23")
    assert all("num_channels (7) must be divisible" in known[tasks, "7"]["failure"] for tasks in "23")
    assert (tmp_path / "sweep" / ".submitit").is_dir()


@pytest.mark.parametrize(
    ("how", "start"), [(signal.SIGINT, forked), pytest.param(signal.SIGKILL, started, marks=pytest.mark.slow)]
)
def test_an_interrupted_sweep_has_what_was_done(tmp_path: Path, how: Any, start: Any) -> None:
    sweep = ["train=false", "num_tasks=2,3,4,5,6", "model.width=8", "compare.steps=1", "data.batch_size=64"]
    page = tmp_path / "sweep" / "sweep.json"  # the last of the report's files
    with start("-m", "+experiment=many_tasks", *sweep, "hydra.sweep.dir=sweep", cwd=tmp_path) as running:
        try:
            deadline = time.monotonic() + 120
            while not page.exists():
                assert running.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            running.send_signal(how)
            said = running.communicate(timeout=60)[1]
        finally:
            running.kill()
    rows = json.loads(page.read_text())["rows"]
    assert 1 <= len(rows) < 5
    assert rows[0]["overrides"]["num_tasks"] == "2"
    assert rows[0]["peak_bytes"] > 0
    if how is signal.SIGINT:
        assert running.returncode == 130, said
        assert f"mtl_accum: interrupted; sweep/sweep.html has {len(rows)} job" in said


def test_reports_anew_merged_and_compared_without_torch(tmp_path: Path) -> None:
    done = mtl_accum(*TWO_TASK, "train=false", "edition=split", "hydra.run.dir=one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before = (tmp_path / "one" / "report.html").read_bytes()
    (tmp_path / "one" / "report.html").unlink()
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")

    def report(*arguments: Any) -> Any:
        done = mtl_accum("job=report", *arguments, "hydra.run.dir=out", cwd=tmp_path, PYTHONPATH=str(tmp_path))
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert report("path=one") == "Report: one\n"
    assert len((tmp_path / "one" / "report.html").read_bytes()) == len(before)
    assert report("path=[one,one]") == "Sweep: out/sweep.html\n"
    rows = json.loads((tmp_path / "out" / "sweep.json").read_text())["rows"]
    assert [row["overrides"]["edition"] for row in rows] == ["summed", "per_task", "split"]
    assert "| edition=split |" in report("path=one", "before=out/sweep.json")
    assert "+0.0 %" in (tmp_path / "out" / "comparison.md").read_text()
