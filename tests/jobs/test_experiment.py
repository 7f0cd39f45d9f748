"""The parts of an experiment: what is refused, and what preparing them does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mtl_accum import MultiTaskModel, Split, Task
from mtl_accum.jobs import Comparison, Evaluation, Experiment, Recording
from mtl_accum.jobs._plan import Auto
from mtl_accum.jobs._run import Run
from mtl_accum.jobs._train import _plan_of
from mtl_accum.training import CheckpointConfig
from mtl_accum.training.checkpoint import Checkpoint


class Batches:
    """One batch of four samples."""

    def train(self) -> list[Any]:
        return [{"x": torch.ones(4, 3), "y": torch.zeros(4, 1)}]

    test = train


def model() -> MultiTaskModel:
    return MultiTaskModel(nn.Linear(3, 2), {"a": Task(nn.Linear(2, 1), nn.MSELoss(), "y")}, "x")


def experiment(**changes: Any) -> Any:
    parts = {"model": model(), "data": Batches(), "device": "cpu", "seed": 3, "optimizer": torch.optim.AdamW}
    return Experiment(**{**parts, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, r"no model and data configured; add an experiment, e.g. \+experiment=two_task"),
        ({"data": None}, "no model and data configured"),
        ({"model": nn.Linear(3, 2)}, "model must be a MultiTaskModel, found Linear"),
        ({"data": [1, 2]}, r"data must have train\(\) and test\(\), found \[1, 2\]"),
        ({"device": "tpu"}, "device must be auto, cpu, cuda or cuda:N, found 'tpu'"),
        ({"seed": -1}, r"seed must be an integer from 0 to 2\*\*63 - 1, found -1"),
    ],
)
def test_a_missing_or_wrong_part_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(**changes)


def test_preparing_seeds_moves_and_makes_the_optimizer() -> None:
    prepared = experiment().prepare()
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(3), drawn)
    assert prepared.device == torch.device("cpu")
    assert isinstance(prepared.optimizer, torch.optim.AdamW)
    assert [id(p) for p in prepared.optimizer.param_groups[0]["params"]] == [id(p) for p in prepared.model.parameters()]
    assert torch.equal(prepared.first_batch()["x"], torch.ones(4, 3))


def test_the_device_of_a_job_replaces_the_configured_one() -> None:
    prepared = experiment(device="cuda:7").prepare(torch.device("cpu"))
    assert prepared.device == torch.device("cpu")


def test_a_job_without_an_optimizer_refuses_to_prepare() -> None:
    with pytest.raises(ValueError, match="optimizer must make an optimizer of parameters, found None"):
        experiment(optimizer=None).prepare()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Evaluation(measures={"m": 3}), "measures.m must be a EvalMetric, found 3"),
        (lambda: Evaluation(images=3), "images must be a mapping from names to Images, found 3"),
        (lambda: Comparison({"s": Split}, 1, False), "compare.editions.s must be an edition such as mtl_accum.Split"),
        (lambda: Comparison({}, 0, False), "compare.steps must be a positive integer, found 0"),
        (lambda: Comparison({}, 1, 1), "compare.snapshots must be true or false, found 1"),
        (lambda: Recording(3, None, 1), "job.recording.checkpoint must be a CheckpointConfig, found 3"),
        (lambda: Recording(CheckpointConfig(), "tb", 1), "logger must make a logger, found 'tb'; see _partial_"),
        (lambda: Recording(CheckpointConfig(), None, 0), "log_every must be a positive integer, found 0"),
        (lambda: Auto("6 apples"), "budget must be a size such as 6GiB"),
    ],
)
def test_a_wrong_argument_is_refused(make: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("before", "is_kept"),
    [
        ({"_target_": "mtl_accum.jobs.Auto", "budget": "4MiB"}, True),
        ({"_target_": "mtl_accum.training.Auto", "budget": "4MiB"}, True),
        ({"_target_": "mtl_accum.jobs.Auto", "budget": "5MiB"}, False),
        ({"_target_": "mtl_accum.Split"}, False),
    ],
)
def test_a_resumed_run_keeps_its_plan_for_the_same_budget(tmp_path: Path, before: Any, is_kept: bool) -> None:
    plan = {"chosen": {}}  # type: ignore[var-annotated]
    checkpoint = Checkpoint(tmp_path, {}, {"config": {"edition": before}, "plan": plan})
    run = Run(tmp_path, "", {"edition": {"_target_": "mtl_accum.jobs.Auto", "budget": "4MiB"}})
    assert (_plan_of(checkpoint, run) == plan) is is_kept
    assert _plan_of(None, run) is None
