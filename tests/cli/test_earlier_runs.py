"""Run folders that earlier commits wrote: they resume, evaluate and report; see tests/earlier_runs/README.md."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.command import SUMMED_ONLY, mtl_accum

EARLIER = Path(__file__).resolve().parent.parent / "earlier_runs"
COMMITS = ["f7790fd", "e7320d1"]  # their checkpoints are of version 2 and of version 3
FINISHED = EARLIER / "f7790fd" / "finished"  # the run of both commits, to the last bit, without a stop
SETTINGS = [
    *("+experiment=two_task", "model.trunk.width=4", "model.trunk.depth=1"),
    *("model.tasks.digit.head.depth=1", "model.tasks.denoise.head.depth=1"),
    *("data.batch_size=500", "data.validation_fraction=0.1", "epochs=4"),
    *("optimizer=sgd", "optimizer.lr=0.5", "scheduler=cosine", "scheduler.T_max=12", "warmup_steps=2"),
    *("logger=none", "compare.steps=1"),
]
AGAIN = [*SETTINGS, "edition=split", "resume=stopped", "hydra.run.dir=resumed"]
# A run is repeated to the last bit on the machine that wrote it. The kernels of another processor round otherwise, and
# SGD does not amplify that; other dropout masks, another order or another learning rate are off by far more.
SAME = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A copy of the run folders of f7790fd."""
    return Path(shutil.copytree(EARLIER / "f7790fd", tmp_path / "runs"))


@pytest.fixture(params=COMMITS)
def stopped(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a copy of the run `stopped` of one commit."""
    shutil.copytree(EARLIER / request.param / "stopped", tmp_path / "stopped")
    return tmp_path


def command(*arguments: str, cwd: Path, **how: Any) -> str:
    """Run a command that must succeed; return what it prints."""
    done = mtl_accum(*arguments, cwd=cwd, **how)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def require_same_weights(folder: Path, expected: Path) -> None:
    weights, wanted = load_file(folder / "model.safetensors"), load_file(expected / "model.safetensors")
    assert weights.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(weights[name], tensor, **SAME, msg=lambda text, name=name: f"{name}: {text}")  # type: ignore[misc]


def edit_saved_configuration(run: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the configuration in a run's only checkpoint, and the digest with it."""
    (file,) = run.glob("checkpoints/*/state.json")
    values = read(file)
    del values["sha256"]
    edit(values["config"])
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps({**values, "sha256": digest}))


@pytest.mark.slow  # a quick one resumes the run that had a plan
def test_it_resumes_and_ends_as_a_run_that_was_not_stopped(stopped: Path) -> None:
    printed = command(*AGAIN, *SUMMED_ONLY, cwd=stopped)
    assert "stopped/checkpoints/step-0000000005: 5 steps are done" in printed
    require_same_weights(stopped / "resumed", FINISHED)
    report, expected = (read(folder / "report.json") for folder in (stopped / "resumed", FINISHED))
    assert report["metrics"] == pytest.approx(expected["metrics"], rel=1e-5)
    for task, losses in expected["training"]["losses"].items():
        assert report["training"]["losses"][task] == pytest.approx(losses, rel=1e-5)
    validation = [figures["epoch"] for figures in expected["training"]["validation"]]
    assert [figures["epoch"] for figures in report["training"]["validation"]] == validation


def test_it_resumes_with_the_plan_that_it_had(runs: Path) -> None:
    planned = ["edition=auto", "budget=2MiB", "resume=planned", "hydra.run.dir=resumed"]
    command(*SETTINGS, *planned, cwd=runs, building_only=True)
    assert not (runs / "resumed" / "plan.json").exists(), "it has planned again"
    require_same_weights(runs / "resumed", runs / "planned_finished")


def test_its_saved_configuration_runs(runs: Path) -> None:
    """The configuration names jobs and settings as they were called then, with the arguments of then."""
    saved = [f"--config-path={runs}/stopped/.hydra", "--config-name=config"]
    command(*saved, "resume=stopped", "hydra.run.dir=resumed", cwd=runs, building_only=True, old_names=True)
    require_same_weights(runs / "resumed", FINISHED)


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A folder with a copy of the run `stopped` of e7320d1, whose saved configuration lacks four keys."""

    def forget(config: dict[str, Any]) -> None:
        for name in ("clip_norm", "on_nan", "step_in_backward"):
            del config[name]
        del config["model"]["tasks"]["digit"]["weight"]

    shutil.copytree(EARLIER / "e7320d1" / "stopped", tmp_path / "stopped")
    edit_saved_configuration(tmp_path / "stopped", forget)
    return tmp_path


def test_a_key_that_the_saved_configuration_lacks_means_its_default(sparse: Path) -> None:
    command(*AGAIN, cwd=sparse, building_only=True)
    require_same_weights(sparse / "resumed", FINISHED)


def test_a_key_that_the_saved_configuration_lacks_may_not_change(sparse: Path) -> None:
    done = mtl_accum(*AGAIN, "clip_norm=1", "model.tasks.digit.weight=3", cwd=sparse, building_only=True)
    assert done.returncode == 1
    changes = "clip_norm was None, is 1; model.tasks.digit.weight was 1.0, is 3"
    assert done.stderr.endswith(f"the configuration has changed since: {changes}\n")


def test_it_evaluates_with_the_figures_that_it_had(runs: Path) -> None:
    for path, expected in (("finished", "finished/report.json"), ("stopped", "evaluated/evaluation.json")):
        command(*SETTINGS, "job=evaluate", f"path={path}", f"hydra.run.dir=of_{path}", cwd=runs)
        figures = read(runs / f"of_{path}" / "evaluation.json")["metrics"]
        assert figures == pytest.approx(read(runs / expected)["metrics"], rel=1e-5)


def test_it_reports(runs: Path) -> None:
    pages = {
        "finished": "report",
        "planned": "plan",
        "sweep": "sweep",
    }
    for path, name in pages.items():
        folder = runs / path
        before = read(folder / f"{name}.json")
        (folder / f"{name}.md").unlink()
        assert command("job=report", f"path={path}", cwd=runs) == f"Report: {path}\n"
        assert {key: value for key, value in read(folder / f"{name}.json").items() if key != "created"} == {
            key: value for key, value in before.items() if key != "created"
        }
        assert (folder / f"{name}.md").exists()
    assert (runs / "finished" / "report.html").exists()
    command("job=report", "path=[finished,sweep]", "hydra.run.dir=merged", cwd=runs)
    rows = read(runs / "merged" / "sweep.json")["rows"]
    assert [row["overrides"]["edition"] for row in rows] == ["summed", "per_task", "split", "summed", "split"]
    assert "| edition=split |" in command("job=report", "path=sweep", "before=finished", cwd=runs)
