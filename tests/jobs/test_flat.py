"""Job files with flat arguments, as they were before `Experiment`: each still builds and calls its job."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mtl_accum import PerTask, Split, SummedLoss, jobs
from mtl_accum.models import MultiTaskModel
from mtl_accum.training import CheckpointConfig, TrainConfig

CONF = Path(__file__).resolve().parents[2] / "conf"
EXPERIMENT = ("model", "data", "optimizer", "device", "seed")
LOOP = {"_target_": "mtl_accum.training.Loop", **{field.name: f"${{{field.name}}}" for field in fields(TrainConfig)}}
KEEP = {
    "_target_": "mtl_accum.training.Keep",
    **{field.name: f"${{checkpoint.{field.name}}}" for field in fields(CheckpointConfig)},
}
JOBS = {
    "train": {
        **{name: f"${{{name}}}" for name in (*EXPERIMENT, "edition", "measures", "images", "resume", "logger")},
        **{name: f"${{compare.{name}}}" for name in ("editions", "steps", "snapshots")},
        "training": "${train}",
        "log_every": "${log_every}",
        "loop": LOOP,
        "checkpoint": KEEP,
    },
    "check": {**{name: f"${{{name}}}" for name in EXPERIMENT}, "editions": "${check.editions}"},
    "plan": {name: f"${{{name}}}" for name in (*EXPERIMENT, "budget")},
    "predict": {
        **{name: f"${{{name}}}" for name in EXPERIMENT},
        **{name: f"${{compare.{name}}}" for name in ("editions", "snapshots")},
    },
    "evaluate_saved": {name: f"${{{name}}}" for name in ("model", "data", "measures", "path", "device", "seed")},
}


@pytest.fixture
def config() -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["+experiment=two_task", "model.trunk.width=4", "model.trunk.depth=1", "epochs=7"])


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Arguments that each job was called with, by its name."""
    calls = {}
    for job in JOBS:
        monkeypatch.setattr(jobs, job, lambda job=job, **arguments: calls.update({job: arguments}), raising=False)
    return calls


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_job_file_of_before(job: str, config: Any, called: Any) -> None:
    config.job = OmegaConf.create(
        {"_target_": f"mtl_accum.training.{job}", "_partial_": True, "_convert_": "all", **JOBS[job]}
    )
    instantiate(config.job)(run="the run")
    arguments = called[job]
    experiment = arguments.pop("experiment")
    assert arguments.pop("run") == "the run"
    assert isinstance(experiment.model, MultiTaskModel)
    assert (experiment.device, experiment.seed) == ("auto", 0)
    assert callable(experiment.optimizer) is (job != "evaluate_saved")
    if job == "train":
        assert (arguments["loop"].epochs, arguments["training"], arguments["resume"]) == (7, True, None)
        assert arguments["edition"] == PerTask()
        assert set(arguments["evaluation"].measures) == {"accuracy", "psnr_restored", "psnr_noisy"}
        assert set(arguments["evaluation"].images) == {"denoise"}
        assert (arguments["recording"].log_every, arguments["recording"].checkpoint) == (10, CheckpointConfig())
    if job in ("train", "predict"):
        assert arguments["comparison"].editions == {"summed": SummedLoss(), "per_task": PerTask(), "split": Split()}
    expected = {
        "train": {"comparison", "edition", "evaluation", "loop", "recording", "resume", "training"},
        "check": {"editions"},
        "plan": {"budget", "form"},
        "predict": {"comparison"},
        "evaluate_saved": {"evaluation", "path"},
    }
    assert set(arguments) == expected[job]


def test_the_old_name_of_a_job_warns() -> None:
    from mtl_accum import training

    with pytest.warns(FutureWarning, match=r"mtl_accum\.training\.train is now mtl_accum\.jobs\.flat\.train"):
        assert training.train is jobs.flat.train
