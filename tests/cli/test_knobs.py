"""Knobs are checked where they enter: one line that names key, right values and wrong one, and nothing is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import SMALL, SUMMED_ONLY, mtl_accum, slow
from tests.report import examples

TWO_TASK = ["+experiment=two_task", *SMALL, *SUMMED_ONLY]
NOT_AN_OPTION = "expected the name of an option, found"


def refused(tmp_path: Any, *arguments: Any) -> Any:
    """The one line, without who says it."""
    done = mtl_accum(*arguments, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("mtl_accum: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("mtl_accum: ").rstrip("\n")


REFUSED = [
    ("model=1", f"model=1: {NOT_AN_OPTION} 1; --help lists them"),
    ("scheduler=null", f"scheduler=None: {NOT_AN_OPTION} None; --help lists them, ~scheduler leaves it out"),
    ("~job", "job must be a mapping with _target_, found None"),
    ("path=[1,2]", "path must be the folder of a run or sweep, or several as [one,two], or null; found [1, 2]"),
    ("budget=6gb", "budget must be a size such as 6GiB or 6GB, a share such as 80%, or auto; found '6gb'"),
    ("measures.accuracy=null", "measures.accuracy must be a mapping with _target_, found null; ~measures.accuracy"),
    ("compare.editions.summed=3", "compare.editions.summed must be a mapping with _target_, found 3"),
    ("deterministic=null", "deterministic must be true or false, found None"),
    ("epochs=99999999999999999999", "epochs must be an integer from 0 to 2**63 - 1, found 99999999999999999999"),
    ("clip_norm=inf", "clip_norm must be a number above 0, or null; found inf"),
    ("checkpoint.every_seconds=nan", "checkpoint.every_seconds must be a number of at least 0, or null; found nan"),
    ("data.seed=null", "data: seed must be an integer from 0 to 2**63 - 1, found None"),
    ("data.seed=${nothing}", "data.seed: Interpolation key 'nothing' not found"),
    ("scheduler=cosine", "scheduler.T_max: expected a value, found none; scheduler.T_max=... gives it one"),
    ("optimizer._partial_=abc", "optimizer._partial_ must be true or false, found 'abc'"),
    ("optimizer._target_=os.getpid", "optimizer: posix.getpid() takes no"),
    ("+optimizer.betas=[0.9]", "optimizer: IndexError: list index out of range"),
    ("model.inputs=sound", "inputs must be a key of the batch (image, clean, digit) or a callable of it, found"),
    ("model.trunk.depth=99999", "model.trunk: depth must be at most 10000, found 99999"),
    ("edition.unknown=1", "Could not override 'edition.unknown'"),
    ("+compare.editions.mine={_target_:os.getpid}", "compare.editions.mine must be an edition such as mtl_accum.S"),
    ("measures.accuracy.metric=3", "measures.accuracy: metric must be a torchmetrics metric, found 3"),
]
REFUSED_TOO = [  # by the same rules, of other knobs
    ("data=true", f"data=True: {NOT_AN_OPTION} True"),
    ("optimizer=1e3", f"optimizer=1000.0: {NOT_AN_OPTION} 1000.0"),
    ("scheduler=[1,2]", f"scheduler=[1, 2]: {NOT_AN_OPTION} [1, 2]"),
    ("edition=${epochs}", f"edition=${{epochs}}: {NOT_AN_OPTION} '${{epochs}}'"),
    ("job=[1,2]", f"job=[1, 2]: {NOT_AN_OPTION} [1, 2]"),
    ("before=3", "before must be the folder of a run or sweep, or null; found 3"),
    ("resume=1.5", "resume must be a run's folder or auto, or null; found 1.5"),
    ("budget=200%", "budget must be a size such as 6GiB or 6GB, a share such as 80%, or auto; found '200%'"),
    ("measures=1", "measures must be a mapping, found 1"),
    ("images=abc", "images must be a mapping, found 'abc'"),
    ("compare=1", "compare must be a mapping, found 1"),
    ("compare.editions=abc", "compare.editions must be a mapping, found 'abc'"),
    ("compare.snapshots=[1,2]", "compare.snapshots must be true or false, found [1, 2]"),
    ("check.editions.split=abc", "check.editions.split must be a mapping with _target_, found 'abc'"),
    ("train=-1", "train must be true or false, found -1"),
    ("log_every=abc", "log_every must be a positive integer, found 'abc'"),
    ("monitor=abc", "monitor must be one of accuracy, psnr_restored, psnr_noisy; found 'abc'"),
    ("checkpoint=null", "checkpoint must be a mapping, found None"),
    ("data.seed=nan", "data: seed must be an integer from 0 to 2**63 - 1, found nan"),
    ("data.num_workers=1000000", "data: num_workers must be an integer from 0 to 1024, found 1000000"),
    ("+data._partial_=true", "data must have train() and test(), found "),
    ("+optimizer._convert_=some", "optimizer._convert_ must be one of none, partial, object, all; found 'some'"),
    ("optimizer.lr=[]", "optimizer: '<=' not supported between instances of 'float' and 'list'"),
    ("model.tasks.digit.weight=nan", "model.tasks.digit: weight must be a number, an nn.Parameter"),
    ("model.trunk.dropout=nan", "model.trunk: dropout must be a number from 0 to 1, found nan"),
    (
        "model.trunk.channels=3",
        "model (MultiTaskModel > ConvTrunk > ConvBlock > Conv2d): RuntimeError: Given",
    ),
    ("+compare.editions.mine={_target_:mtl_accum.Split,order:1}", "compare.editions.mine: order must be 'forward'"),
    ("+edition.allow=true", "edition: PerTask.__init__() got an unexpected keyword argument 'allow'"),
]


@pytest.mark.parametrize(("override", "message"), [*REFUSED, *slow(REFUSED_TOO)])
def test_a_knob_is_refused_in_one_line(tmp_path: Path, override: Any, message: Any) -> None:
    assert message in refused(tmp_path, *TWO_TASK, override)


def test_before_is_named_where_it_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").write_text(json.dumps(examples.report()))
    assert refused(tmp_path, "job=report", "path=run", "before=x").startswith("before=x: expected the folder of a run")


def test_what_a_library_refuses_late_is_one_line(tmp_path: Path) -> None:
    """Torch reads T_max after the first step."""
    line = refused(tmp_path, *TWO_TASK, "scheduler=cosine", "scheduler.T_max=[]")
    assert line.startswith("scheduler: unsupported operand type(s)")
    assert line.endswith("HYDRA_FULL_ERROR=1 shows the traceback")


BUILDER = """
from pathlib import Path
from mtl_accum import models
def build(**sizes):
    Path("built").touch()
    return models.many_tasks(**sizes)
"""


@pytest.mark.parametrize(
    "override",
    [
        *("compare.steps=0", "data.seed=abc", "+edition.order=abc", "checkpoint.keep=0", "patience=2"),
        *("job=check device=tpu", "job=predict compare.snapshots=1", "job=plan budget=1.5", "job=evaluate measures=1"),
    ],
)
def test_a_network_is_built_last(tmp_path: Path, override: Any) -> None:
    (tmp_path / "mine_builder.py").write_text(BUILDER)
    network = ["+experiment=many_tasks", "model._target_=mine_builder.build", "num_tasks=2"]
    refused(tmp_path, *network, *override.split())
    assert not (tmp_path / "built").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package' (mine_broken.py, line 1)"),
        ("\nX = undefined\n", "NameError: name 'undefined' is not defined (mine_broken.py, line 2)"),
        ("def f(:\n", "SyntaxError: invalid syntax (mine_broken.py, line 1)"),
        ("raise RuntimeError('no licence')\n", "RuntimeError: no licence (mine_broken.py, line 1)"),
        ("def loss(reduction='mean'): return {}['x']\n", "model.tasks.digit.loss: KeyError: 'x' (mine_broken.py, line"),
    ],
)
def test_the_innermost_cause_of_what_cannot_be_built(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "mine_broken.py").write_text(source)
    line = refused(tmp_path, *TWO_TASK, "model.tasks.digit.loss._target_=mine_broken.loss")
    assert message in line
    assert line.startswith("model.tasks.digit.loss: ")
    assert line.endswith("; HYDRA_FULL_ERROR=1 shows the traceback")


def test_a_bug_in_ones_own_network_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "mine_buggy.py").write_text("def loss(output, target):\n    return undefined\n")
    own = ["model.tasks.digit.loss._target_=mine_buggy.loss", "+model.tasks.digit.loss._partial_=true"]
    done = mtl_accum(*TWO_TASK, *own, cwd=tmp_path)
    assert done.returncode == 1
    assert "NameError: name 'undefined' is not defined" in done.stderr
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("arguments", [TWO_TASK, ["-m", *TWO_TASK, "seed=1,2"], ["job=report", "path=x"]])
def test_several_processes_are_refused(tmp_path: Path, arguments: Any) -> None:
    done = mtl_accum(*arguments, cwd=tmp_path, WORLD_SIZE="2", RANK="0", LOCAL_RANK="0")
    assert done.returncode == 1
    assert done.stderr.startswith("mtl_accum: WORLD_SIZE=2: expected one process")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_job_with_a_wrong_knob_is_a_row_of_its_sweep(tmp_path: Path) -> None:
    small = ["+experiment=many_tasks", "train=false", "num_tasks=2", "model.width=4", "model.depth=1"]
    rows = {}
    for sweep in (["data.batch_size=abc,[1],${nothing}"], ["compare=1", "seed=0,1"], ["train=-1,abc"]):
        folder = sweep[0].partition("=")[0]
        arguments = [*small, "compare.steps=1", *sweep, f"hydra.sweep.dir={folder}"]
        done = mtl_accum("-m", *arguments, cwd=tmp_path)
        assert "Traceback" not in done.stderr
        assert "jobs failed; " in done.stderr
        found = json.loads((tmp_path / folder / "sweep.json").read_text())["rows"]
        rows[folder] = [row["failure"] for row in found]
    assert rows == {
        "data.batch_size": [
            "data: batch_size must be a positive integer, found 'abc'",
            "data: batch_size must be a positive integer, found [1]",
            "data.batch_size: Interpolation key 'nothing' not found",
        ],
        "compare": ["compare must be a mapping, found 1"] * 2,
        "train": [f"train must be true or false, found {value}" for value in ("-1", "'abc'")],
    }
