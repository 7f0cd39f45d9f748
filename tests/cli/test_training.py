"""Training from the command line: resume, evaluation, accumulation, and knobs that are out of range."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mtl_accum.training.checkpoint import list_checkpoints
from mtl_accum.training.checkpoint._store import load
from tests.cli.command import SMALL, SUMMED_ONLY, forked, mtl_accum, started
from tests.cli.conftest import Finished

TWO_TASK = ["+experiment=two_task", *SMALL, *SUMMED_ONLY]


def weights(folder: Path) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in load_file(folder / "model.safetensors").items()}


@pytest.mark.parametrize(
    ("how", "edition", "start"),
    [
        pytest.param(signal.SIGKILL, ["edition=split"], started, marks=pytest.mark.slow),
        (signal.SIGTERM, ["edition=split"], forked),
        pytest.param(signal.SIGTERM, ["edition=auto", "budget=4MiB"], forked, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed(tmp_path: Path, how: Any, edition: Any, start: Any) -> None:
    """Weights and losses are those of a run that nobody disturbed; the checkpoint of SIGTERM is of the very step."""
    settings = [*TWO_TASK, "epochs=10", "checkpoint.every_steps=4", "data.num_workers=1"]
    with start(*settings, *edition, "hydra.run.dir=runs/day/one", cwd=tmp_path) as run:
        deadline = time.monotonic() + 120
        while not list_checkpoints(tmp_path / "runs/day/one/checkpoints") and time.monotonic() < deadline:
            assert run.poll() is None
            time.sleep(0.02)
        (os.kill if how == signal.SIGKILL else os.killpg)(run.pid, how)  # SIGTERM: the loader's worker, too
        said = run.communicate(timeout=60)[1]
    if how == signal.SIGTERM:
        assert run.returncode == 128 + signal.SIGTERM
        assert "mtl_accum: stopped after step" in said
        assert "resume=runs/day/one continues from there" in said
    done = mtl_accum(*settings, *edition, "resume=auto", "hydra.run.dir=runs/day/two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resumed from runs/day/one/checkpoints/step-" in done.stdout
    plan = load(list_checkpoints(tmp_path / "runs/day/one/checkpoints")[-1]).values["plan"]
    planned = "edition=auto" in edition
    same = plan["chosen"]["overrides"] if planned else edition  # a search of its own may end elsewhere: it times
    whole = mtl_accum(*settings, *same, "data.num_workers=0", "hydra.run.dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert weights(tmp_path / "runs/day/two") == weights(tmp_path / "whole")
    reports = [json.loads((tmp_path / place / "report.json").read_text()) for place in ("runs/day/two", "whole")]
    assert reports[0]["training"]["losses"] == reports[1]["training"]["losses"]
    if planned:  # it is the killed run's, and no other was made
        assert reports[0]["plan"] == plan
        assert (tmp_path / "runs/day/one/plan.json").exists()
        assert not (tmp_path / "runs/day/two/plan.json").exists()
    changed = mtl_accum(*settings, *edition, "resume=runs/day/two", "optimizer.lr=0.5", cwd=tmp_path)
    assert changed.returncode == 1
    assert "the configuration has changed since: optimizer.lr was 0.001, is 0.5" in changed.stderr


def test_evaluate(tmp_path: Path, finished: Finished) -> None:
    shutil.copytree(finished.folder / "out", tmp_path / "run")
    expected = json.loads((tmp_path / "run" / "report.json").read_text())["metrics"]
    step = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert load(step).values["config"]["model"]["tasks"]["digit"]["weight"] == 0.5
    for path in ("run", "run/model.safetensors", str(step.relative_to(tmp_path))):
        done = mtl_accum(*TWO_TASK, "job=evaluate", f"path={path}", "hydra.run.dir=out", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
        assert found["metrics"] == pytest.approx(expected)
        assert f"| accuracy | {expected['accuracy']:.4f} |" in (tmp_path / "out" / "evaluation.md").read_text()
        assert f"weights: {path}" in done.stdout
        assert ("its digest" if "step-" in path else "their SHA-256 is the one in report.json") in done.stdout
    wrong = mtl_accum(*TWO_TASK, "job=evaluate", "path=run", "model.trunk.width=16", cwd=tmp_path)
    assert wrong.returncode == 1
    assert "mtl_accum: path=run: these weights do not fit this model" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1


def test_compare_trains_nothing(tmp_path: Path) -> None:
    done = mtl_accum(*TWO_TASK, "job=compare", "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["edition"] for row in report["editions"]] == ["summed"]
    assert "training" not in report
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_accumulation(tmp_path: Path) -> None:
    small = ["model.trunk.width=8", "model.trunk.depth=2", "epochs=1", "compare.steps=1", "hydra.run.dir=out"]
    done = mtl_accum("+experiment=accumulation", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    one, pieces = report["editions"]
    assert (one["edition"], pieces["edition"]) == ("summed", "accumulated")
    assert pieces["memory"][0]["peak_bytes"] < 0.5 * one["memory"][0]["peak_bytes"]
    assert pieces["gradient_difference"] < 1e-4
    batch = mtl_accum("+experiment=accumulation", *small, "model.trunk.norm=batch", cwd=tmp_path)
    assert batch.returncode == 1
    assert "BatchNorm2d) uses batch statistics, which differ in pieces of the batch" in batch.stderr


def test_the_effective_batch_is_said(tmp_path: Path) -> None:
    windows = ["data.batch_size=64", "accumulate=8", "lr_scaling=linear", "base_batch_size=256"]
    done = mtl_accum(*TWO_TASK, *windows, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "A step is 512 samples (8 batches of 64), 2 times the base batch of 256: the learning rate is 0.002" in (
        done.stdout
    )


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ("precision=int4", "precision must be one of fp32, tf32, bf16, fp16; found 'int4'"),
        ("accumulate=0", "accumulate must be a positive integer, found 0"),
        ("clip_norm=-1", "clip_norm must be a number above 0, or null; found -1"),
        ("on_nan=cry", "on_nan must be one of raise, skip; found 'cry'"),
        ("lr_scaling=linear", "lr_scaling=linear: expected base_batch_size, to scale by; found none"),
        ("monitor=accuracy", "monitor=accuracy: expected validation data, found none; see conf/data"),
        ("checkpoint.keep=0", "checkpoint.keep must be a positive integer, found 0"),
        ("resume=nowhere", "resume=nowhere: expected a run's folder with checkpoints/step-..., found none there"),
    ],
)
def test_out_of_range_is_one_line(tmp_path: Path, knob: str, message: str) -> None:
    done = mtl_accum(*TWO_TASK, knob, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
