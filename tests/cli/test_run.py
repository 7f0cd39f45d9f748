"""The command line as a person uses it: what a run leaves, and one line for every mistake."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mtl_accum.__main__ import _one_line_errors
from tests.cli.command import SMALL, SUMMED_ONLY, forked, mtl_accum, slow
from tests.cli.conftest import Finished

TWO_TASK = ["+experiment=two_task", *SMALL]


@pytest.mark.parametrize("python", [None, pytest.param(sys.executable, marks=pytest.mark.slow)], ids=["forked", "new"])
def test_a_run_leaves_a_report(finished: Finished, tmp_path: Path, python: Any) -> None:
    if python is None:
        folder, (stdout, stderr) = finished.folder, finished.output
    else:
        done = mtl_accum(*finished.arguments, cwd=tmp_path, python=python)
        assert done.returncode == 0, done.stderr
        folder, (stdout, stderr) = tmp_path, (done.stdout, done.stderr)
    out = folder / "out"
    assert {path.name for path in out.iterdir()} >= {
        "report.json",
        "report.md",
        "report.html",
        "pictures",
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
    assert str(folder) not in (out / "report.json").read_text()
    assert "trunk.module.stem.0.weight" in load_file(out / "model.safetensors")
    assert "| split |" in stdout
    assert "Edition 2 (per_task) saved" in stdout
    assert "| activations |" in stdout
    assert "### split" in (out / "report.md").read_text()
    assert "training" not in stderr  # no progress bar: this is not a terminal


def test_predicting_is_quick_and_needs_no_device(tmp_path: Path) -> None:
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
    assert "device must be auto, cpu, cuda or cuda:N, found 'tpu'" in done.stderr


def test_own_experiment_from_a_folder_of_ones_own(tmp_path: Path) -> None:
    mine = tmp_path / "my_conf" / "experiment"
    mine.mkdir(parents=True)
    (mine / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - two_task\n  - override /edition: split\n  - override /optimizer: sgd\n"
    )
    done = mtl_accum(
        "--config-dir", "my_conf", "+experiment=mine", *SMALL, *SUMMED_ONLY, "hydra.run.dir=out", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "out" / "report.json").read_text())["config"]
    assert (config["edition"]["_target_"], config["optimizer"]["_target_"]) == (
        "mtl_accum.Split",
        "torch.optim.SGD",
    )


EDITIONS = (
    "accumulated, as_loss, auto, cached, cached_loss, checkpointed, offloaded, per_task, split, split_loss, summed"
)


def test_help_shows_what_one_can_do_without_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    done = mtl_accum("--help", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    for text in (
        "+experiment=two_task",
        f"edition: {EDITIONS}",
        "--config-dir",
        "epochs: 40",
        "can name any Python callable",
    ):
        assert text in done.stdout


MISTAKES = [
    ([], "no model and data configured; add an experiment, e.g. +experiment=two_task"),
    (
        ["+experiment=nope"],
        "experiment=nope: expected one of accumulation, dense3, lm_heads, many_tasks, text8, two_task; found no "
        "experiment of that name",
    ),
    (
        [*TWO_TASK, "edition=nope"],
        f"edition=nope: expected one of {EDITIONS}; found no edition",
    ),
    ([*TWO_TASK, "data.batch_size=abc"], "data: batch_size must be a positive integer, found 'abc'"),
    ([*TWO_TASK, "epoch=3"], "Could not override 'epoch'. To append to your config use +epoch=3"),
    (
        [*TWO_TASK, "model.tasks.digit.target=label"],
        "task 'digit': expected its target in the data, found batches",
    ),
    (
        [*TWO_TASK, "+model.tasks.digit.loss.reduction=none"],
        "task 'digit': expected a 0-dim loss, found one of shape (500,); reduce it to a mean",
    ),
    ([*TWO_TASK, "optimizer=sgd", "optimizer.lr=1e20", "epochs=3"], "loss is nan at step"),
    ([*TWO_TASK, "device=gpu"], "device must be auto, cpu, cuda or cuda:N, found 'gpu'"),
    ([*TWO_TASK, "model.tasks.digit.loss._target_=torch.nn.Foo"], "Error locating target 'torch.nn.Foo'"),
    (
        [*TWO_TASK, "model.trunk.width=7"],
        "model.trunk: num_channels (7) must be divisible by num_groups (4)",
    ),
    ([*TWO_TASK, "optimizer.lr=-1"], "optimizer: Invalid learning rate: -1"),
    ([*TWO_TASK, "edition=auto", "budget=1B"], "budget: expected at least"),
    (["job=report", "path=taken"], "taken: expected a report, found a file that is cut off or no JSON"),
    ([*TWO_TASK, "hydra.run.dir=taken/run"], "taken"),
]
MORE_MISTAKES = [  # that are refused by the same rules
    ([*TWO_TASK, "data=nope"], "data=nope: expected one of digits, scenes, sentences, texts; found no data"),
    ([*TWO_TASK, "data.batch_size=0"], "data: batch_size must be a positive integer, found 0"),
    ([*TWO_TASK, "epochs=-1"], "epochs must be an integer from 0 to 2**63 - 1, found -1"),
    ([*TWO_TASK, "compare.steps=0"], "compare.steps must be a positive integer, found 0"),
    ([*TWO_TASK, "model.tasks.digit.loss.reduction=none"], "Could not override"),
    ([*TWO_TASK, "model.trunk.depth=0"], "model.trunk: depth must be a positive integer, found 0"),
    (
        [*TWO_TASK, "+edition.heads=2"],
        "edition: PerTask.__init__() got an unexpected keyword argument 'heads'",
    ),
    ([*TWO_TASK, "job=plan", "budget=6gb"], "budget must be a size such as 6GiB or 6GB, a share such as 80%"),
    ([*TWO_TASK, "job=plan", "device=tpu"], "device must be auto, cpu, cuda or cuda:N, found 'tpu'"),
    (["job=report"], "path must be the folder of a run or sweep, or several as [one,two]; found none"),
    (["job=report", "path=nowhere"], "path=nowhere: expected the folder of a run or sweep or its JSON file"),
    ([*TWO_TASK, "seed=a"], "seed must be an integer from 0 to 2**63 - 1, found 'a'"),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [*MISTAKES, *slow(MORE_MISTAKES)],
    ids=lambda value: " ".join(value[-1:]) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_line(tmp_path: Path, arguments: Any, message: Any) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    done = mtl_accum(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("mtl_accum: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("report.*"))


def test_no_cuda(tmp_path: Path) -> None:
    done = mtl_accum(*TWO_TASK, "device=cuda", cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stderr) == (
        1,
        "mtl_accum: device=cuda: expected a CUDA device, found none here; use device=cpu\n",
    )


def test_full_error_on_request(tmp_path: Path) -> None:
    done = mtl_accum(*TWO_TASK, "data.batch_size=0", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert "Traceback" in done.stderr


def test_an_interrupted_run_leaves_no_report(tmp_path: Path) -> None:
    much = ["epochs=10000", "checkpoint.every_steps=5", "hydra.run.dir=out"]
    with forked(*TWO_TASK, *much, cwd=tmp_path) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("out/checkpoints/step-*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert re.fullmatch(r"mtl_accum: stopped after step \d+; resume=out continues from there\n", stderr)
    assert not list(tmp_path.rglob("report.*"))
    assert list(tmp_path.glob("out/checkpoints/step-*"))
    assert not list((tmp_path / "out").glob(".writing*"))


def test_check_job(tmp_path: Path) -> None:
    small = ["check.editions.cached.chunk_size=200", "check.editions.accumulated.micro_batches=3", "hydra.run.dir=out"]
    done = mtl_accum(*TWO_TASK, "job=check", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for edition in ("per_task", "split", "cached", "accumulated"):
        assert f"| {edition} | float64 |" in done.stdout
    assert "| cached | float64 |" in (tmp_path / "out" / "check.md").read_text()


def test_check_job_says_what_the_optimizer_refuses(tmp_path: Path) -> None:
    done = mtl_accum(*TWO_TASK, "job=check", "optimizer.lr=-1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "mtl_accum: optimizer: Invalid learning rate: -1\n")


def test_check_job_fails_where_an_edition_differs(tmp_path: Path) -> None:
    done = mtl_accum(
        *TWO_TASK,
        "job=check",
        "+check.editions.odd={_target_: tests.odd_edition.Odd}",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "| odd | float64 |" in done.stdout
    assert done.stderr == "mtl_accum: not exact on this model: odd; see the reasons above\n"


@pytest.mark.parametrize(
    "edition",
    ["cached", *(pytest.param(name, marks=pytest.mark.slow) for name in ("offloaded", "accumulated", "checkpointed"))],
)
def test_every_edition_trains(tmp_path: Path, edition: Any) -> None:
    mine = [f"edition={edition}", f"+edition@compare.editions.mine={edition}", *SUMMED_ONLY]
    done = mtl_accum(*TWO_TASK, *mine, "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "out" / "report.json").read_text())["editions"][-1]
    assert (row["edition"], row["failure"]) == ("mine", None)
    assert "model.safetensors" in {path.name for path in (tmp_path / "out").iterdir()}


def test_an_error_of_a_library_in_the_way_of_an_interrupt_is_an_interrupt() -> None:
    """Hydra closes a file that it has not opened yet if Ctrl-C comes at that moment."""
    with pytest.raises(SystemExit) as left, _one_line_errors():
        try:
            raise KeyboardInterrupt
        finally:
            raise UnboundLocalError("cannot access local variable 'f'")
    assert left.value.code == 130
