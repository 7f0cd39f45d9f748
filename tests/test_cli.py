"""The command line as a person uses it: what a run leaves, and one line for every mistake."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli import SMALL, mtl_accum

ROOT = Path(__file__).resolve().parent.parent
TWO_TASK = ["+experiment=two_task", *SMALL]


def test_a_run_leaves_a_report(tmp_path):
    done = mtl_accum(*TWO_TASK, "edition=split", "model.tasks.digit.weight=0.5", "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} >= {
        "report.json",
        "report.md",
        "memory.png",
        "model.safetensors",
    }
    report = json.loads((out / "report.json").read_text())
    assert report["command"].startswith("python -m mtl_accum +experiment=two_task model.trunk.width=8")
    assert report["config"]["edition"]["_target_"] == "mtl_accum.Split"
    assert report["config"]["model"]["tasks"]["digit"]["weight"] == 0.5
    assert [row["edition"] for row in report["editions"]] == ["summed", "per_task", "split"]
    assert all(row["failure"] is None and row["gradient_difference"] <= 1e-5 for row in report["editions"])
    assert len(report["training"]["losses"]["digit"]) == 3
    assert set(report["metrics"]) == {"accuracy", "psnr_restored", "psnr_noisy"}
    assert str(tmp_path) not in (out / "report.json").read_text()
    assert "trunk.module.stem.0.weight" in load_file(out / "model.safetensors")
    assert "| split |" in done.stdout
    assert "Edition 2 (per_task) saved" in done.stdout
    assert "| activations |" in done.stdout
    assert "### split" in (out / "report.md").read_text()
    assert "training" not in done.stderr  # no progress bar: this is not a terminal


def test_predicting_is_quick_and_needs_no_device(tmp_path):
    arguments = ["job=predict", "device=cuda", "compare.snapshots=true", "hydra.run.dir=out"]
    cached = "+edition@compare.editions.cached=cached"
    done = mtl_accum(*TWO_TASK, *arguments, cached, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    found = json.loads((out / "report.json").read_text())
    assert found["kind"] == "prediction"
    peaks = {row["edition"]: row["memory"][0] for row in found["editions"]}
    assert list(peaks) == ["summed", "per_task", "split", "cached"]
    for peak in peaks.values():
        assert sum(peak["categories"].values()) == peak["peak_bytes"] <= peak["reserved_bytes"]
    assert peaks["cached"]["peak_bytes"] < peaks["split"]["peak_bytes"] < peaks["summed"]["peak_bytes"]
    assert {path.stem for path in (out / "snapshots").iterdir()} == set(peaks)
    assert "Of the predicted peak memory of Edition 1 (summed)" in done.stdout
    assert "predicted, not measured" in done.stdout
    done = mtl_accum(*TWO_TASK, "job=predict", "device=tpu", cwd=tmp_path)
    assert "device must be auto, cpu or cuda to predict for, found 'tpu'" in done.stderr


def test_a_plan_and_what_it_prints_reproduces_it(tmp_path):
    done = mtl_accum(*TWO_TASK, "job=plan", "budget=4MiB", "hydra.run.dir=plan", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "plan" / "plan.json").read_text())["plan"]
    assert plan["peak"]["peak_bytes"] <= plan["budget"]["size"] == 4 * 2**20
    assert plan["timed_by"] == "timings of the pieces"
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("On the command line: "))
    pasted = line.removeprefix("On the command line: ").split()
    assert pasted == plan["chosen"]["overrides"]
    done = mtl_accum(*TWO_TASK, *pasted, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "report.json").read_text())["config"]
    assert config["edition"] == plan["chosen"]["edition"]


def test_training_with_what_the_planner_chooses(tmp_path):
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


def test_a_plan_that_nothing_fits_is_written_down(tmp_path):
    done = mtl_accum(*TWO_TASK, "job=plan", "budget=100kB", "device=cuda", "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("mtl_accum: budget: expected at least ")
    assert "Nothing fits into the budget of 0.1 MiB (100kB)" in done.stdout
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["plan"]["chosen"] is None


def test_jobs_side_by_side_measure_one_at_a_time(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs hydra-joblib-launcher")
    sweep = ["train=false", "num_tasks=2,3", "model.width=8", "compare.steps=1", "data.batch_size=64"]
    done = mtl_accum(
        *("-m", "+experiment=many_tasks", *sweep, "hydra/launcher=joblib", "hydra.sweep.dir=sweep"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["rows"]
    assert [(row["overrides"]["num_tasks"], row["failure"]) for row in rows] == [("2", None), ("3", None)]
    assert all(row["peak_bytes"] and row["step_seconds"] for row in rows)


def test_reports_anew_merged_and_compared_without_torch(tmp_path):
    done = mtl_accum(*TWO_TASK, "train=false", "edition=split", "hydra.run.dir=one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before = (tmp_path / "one" / "report.html").read_bytes()
    (tmp_path / "one" / "report.html").unlink()
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")

    def report(*arguments):
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


def test_own_experiment_from_a_folder_of_ones_own(tmp_path):
    mine = tmp_path / "my_conf" / "experiment"
    mine.mkdir(parents=True)
    (mine / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - two_task\n  - override /edition: split\n  - override /optimizer: sgd\n"
    )
    done = mtl_accum("--config-dir", "my_conf", "+experiment=mine", *SMALL, "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "out" / "report.json").read_text())["config"]
    assert (config["edition"]["_target_"], config["optimizer"]["_target_"]) == (
        "mtl_accum.Split",
        "torch.optim.SGD",
    )


def test_help_shows_what_one_can_do_without_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    done = mtl_accum("--help", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    for text in (
        "+experiment=two_task",
        "edition: accumulated, auto, cached, checkpointed, offloaded, per_task, split, summed",
        "--config-dir",
        "epochs: 40",
    ):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to train: expected model and data, found none; add +experiment=two_task"),
        (
            ["+experiment=nope"],
            "experiment=nope: expected one of many_tasks, two_task; found no experiment of that name",
        ),
        (
            [*TWO_TASK, "edition=nope"],
            "edition=nope: expected one of accumulated, auto, cached, checkpointed, offloaded, per_task, split, "
            "summed; found no edition",
        ),
        ([*TWO_TASK, "data=nope"], "data=nope: expected one of digits; found no data of that name"),
        ([*TWO_TASK, "data.batch_size=0"], "data: batch_size must be a positive integer, found 0"),
        ([*TWO_TASK, "data.batch_size=abc"], "data: batch_size must be a positive integer, found 'abc'"),
        ([*TWO_TASK, "epochs=-1"], "epochs must be an integer from 0 to 2**63 - 1, found -1"),
        ([*TWO_TASK, "compare.steps=0"], "compare.steps must be a positive integer, found 0"),
        ([*TWO_TASK, "epoch=3"], "Could not override 'epoch'. To append to your config use +epoch=3"),
        (
            [*TWO_TASK, "model.tasks.digit.target=label"],
            "task 'digit': expected its target in the data, found batches",
        ),
        ([*TWO_TASK, "model.tasks.digit.loss.reduction=none"], "Could not override"),
        (
            [*TWO_TASK, "+model.tasks.digit.loss.reduction=none"],
            "task 'digit': expected a 0-dim loss, found one of shape (500,); reduce it to a mean",
        ),
        ([*TWO_TASK, "optimizer=sgd", "optimizer.lr=1e20", "epochs=3"], "loss is nan at step"),
        ([*TWO_TASK, "device=gpu"], "device must be auto, cpu, cuda or cuda:N, found 'gpu'"),
        ([*TWO_TASK, "model.trunk.depth=0"], "model.trunk: depth must be a positive integer, found 0"),
        (
            [*TWO_TASK, "+edition.heads=2"],
            "edition: PerTask.__init__() got an unexpected keyword argument 'heads'",
        ),
        ([*TWO_TASK, "model.tasks.digit.loss._target_=torch.nn.Foo"], "Error locating target 'torch.nn.Foo'"),
        (
            [*TWO_TASK, "model.trunk.width=7"],
            "model.trunk: num_channels (7) must be divisible by num_groups (4)",
        ),
        ([*TWO_TASK, "optimizer.lr=-1"], "optimizer: Invalid learning rate: -1"),
        ([*TWO_TASK, "job=plan", "budget=6gb"], "budget must be a size such as 6GiB or 6GB, a share such as 80%"),
        ([*TWO_TASK, "edition=auto", "budget=1B"], "budget: expected at least"),
        ([*TWO_TASK, "job=plan", "device=tpu"], "device must be auto, cpu, cuda or cuda:N, found 'tpu'"),
        (["job=report"], "path must be the folder of a run or sweep, or several as [one,two]; found none"),
        (["job=report", "path=taken"], "taken: expected a report, found a file that is cut off or no JSON"),
        (["job=report", "path=nowhere"], "path=nowhere: expected the folder of a run or sweep or its JSON file"),
        ([*TWO_TASK, "seed=a"], "seed must be an integer from 0 to 2**63 - 1, found 'a'"),
        ([*TWO_TASK, "hydra.run.dir=taken/run"], "taken"),
    ],
    ids=lambda value: " ".join(value[-1:]) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_line(tmp_path, arguments, message):
    (tmp_path / "taken").write_text("a file where a folder should be")
    done = mtl_accum(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("mtl_accum: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("report.*"))


def test_no_cuda(tmp_path):
    done = mtl_accum(*TWO_TASK, "device=cuda", cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stderr) == (
        1,
        "mtl_accum: device=cuda: expected a CUDA device, found none here; use device=cpu\n",
    )


def test_full_error_on_request(tmp_path):
    done = mtl_accum(*TWO_TASK, "data.batch_size=0", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert "Traceback" in done.stderr


def test_an_interrupted_run_leaves_no_report(tmp_path):
    command = [sys.executable, "-m", "mtl_accum", *TWO_TASK, "epochs=10000", "hydra.run.dir=out"]

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job inherits a deaf ear

    how = {"cwd": tmp_path, "stderr": subprocess.PIPE, "text": True, "preexec_fn": listen}  # no thread runs here
    with subprocess.Popen(command, **how) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "out").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(4)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "mtl_accum: interrupted; no report was written\n"
    assert not list(tmp_path.rglob("report.*"))
    assert not list((tmp_path / "out").glob(".writing*"))


def test_multirun(tmp_path):
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


def test_a_job_that_fails_is_a_row_of_its_sweep(tmp_path):
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


def test_check_job(tmp_path):
    small = ["check.editions.cached.chunk_size=200", "check.editions.accumulated.micro_batches=3", "hydra.run.dir=out"]
    done = mtl_accum(*TWO_TASK, "job=check", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for edition in ("per_task", "split", "cached", "accumulated"):
        assert f"| {edition} | float64 |" in done.stdout
    assert "| cached | float64 |" in (tmp_path / "out" / "check.md").read_text()


def test_check_job_says_what_the_optimizer_refuses(tmp_path):
    done = mtl_accum(*TWO_TASK, "job=check", "optimizer.lr=-1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "mtl_accum: optimizer: Invalid learning rate: -1\n")


def test_check_job_fails_where_an_edition_differs(tmp_path):
    done = mtl_accum(
        *TWO_TASK,
        "job=check",
        "+check.editions.odd={_target_: tests.odd_edition.Odd}",
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
    )
    assert done.returncode == 1
    assert "| odd | float64 |" in done.stdout
    assert done.stderr == "mtl_accum: not exact on this model: odd; see the reasons above\n"


@pytest.mark.parametrize("edition", ["cached", "accumulated", "checkpointed", "offloaded"])
def test_every_edition_trains(tmp_path, edition):
    done = mtl_accum(
        *TWO_TASK, f"edition={edition}", f"+edition@compare.editions.mine={edition}", "hydra.run.dir=out", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "out" / "report.json").read_text())["editions"][-1]
    assert (row["edition"], row["failure"]) == ("mine", None)
    assert "model.safetensors" in {path.name for path in (tmp_path / "out").iterdir()}
