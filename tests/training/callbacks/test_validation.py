"""Validation between epochs: the best one, its checkpoint, the plateau, and when training ends."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanSquaredError

from mtl_accum.training.callbacks import CheckpointCallback, CheckpointConfig, ValidationCallback
from mtl_accum.training.checkpoint import FOLDER, list_checkpoints
from mtl_accum.training.checkpoint._store import load
from mtl_accum.training.evaluation import EvalMetric
from tests.training.runs import assert_same, make, outcome


class Scripted(ValidationCallback):
    """Finds what it is told to find."""

    def __init__(self, values: list[float]) -> None:
        super().__init__({}, list)
        self.values = values

    def on_epoch(self, run: Any) -> None:
        entry = {"epoch": run.position.epoch, "step": run.position.step, "error": self.values[run.position.epoch - 1]}
        history = run.kept.setdefault("validation", [])
        history.append(entry)
        self._update_best(run, entry)


def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randn(8, 3, generator=generator) for _ in range(2)]
    return [{"x": x, "y": x.sum(1, keepdim=True)} for x in rows]


MEASURES = {"error": EvalMetric("a", MeanSquaredError())}


def test_it_measures_and_changes_nothing() -> None:
    plain = make()
    plain.run()
    measured = make(callbacks=[ValidationCallback(MEASURES, batches)], validate_every=1)
    measured.run()
    assert_same(outcome(measured), outcome(plain))
    found = measured.kept["validation"]
    assert [(entry["epoch"], entry["step"]) for entry in found] == [(1, 5), (2, 10), (3, 15)]
    assert found[-1]["error"] < found[0]["error"]
    assert "best" not in measured.kept


@pytest.mark.parametrize(("every", "epochs"), [(0, []), (2, [2])])
def test_every_so_often(every: int, epochs: list[int]) -> None:
    run = make(callbacks=[ValidationCallback(MEASURES, batches)], validate_every=every)
    run.run()
    assert [entry["epoch"] for entry in run.kept.get("validation", [])] == epochs


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_training_ends_where_nothing_gets_better(
    tmp_path: Path, mode: str, sign: int, caplog: pytest.LogCaptureFixture
) -> None:
    values = [sign * value for value in (5.0, 3.0, 3.5, 3.0, 2.0, 1.0)]
    keeper = CheckpointCallback(
        CheckpointConfig(every_steps=5, every_seconds=None, keep=1), tmp_path, {"config": {}, "plan": None}
    )
    callbacks = [Scripted(values), keeper]
    run = make(callbacks=callbacks, epochs=6, monitor="error", monitor_mode=mode, patience=2)
    with caplog.at_level(logging.INFO, logger="mtl_accum"):
        run.run()
    assert run.position.epoch == 4
    assert run.kept["best"] == {"value": sign * 3.0, "step": 10, "epoch": 2}
    assert f"error has not become better than {sign * 3} (epoch 2) in 2 validations" in caplog.text
    assert [path.name[-2:] for path in list_checkpoints(tmp_path / FOLDER)] == ["10", "20"], "the best one and the last"
    again = make(callbacks=[Scripted(values)], epochs=6, monitor="error", monitor_mode=mode, patience=2)
    again.restore(*load(list_checkpoints(tmp_path / FOLDER)[-1])[1:])
    again.run()
    assert again.position.step == 20, "what has ended stays so"


def test_an_interrupted_run_remembers_the_best(tmp_path: Path) -> None:
    values, settings = [5.0, 3.0, 3.5, 4.0], {"epochs": 4, "monitor": "error", "patience": 2}
    keeper = CheckpointCallback(
        CheckpointConfig(every_steps=1, every_seconds=None, keep=99), tmp_path, {"config": {}, "plan": None}
    )
    whole = make(callbacks=[Scripted(values), keeper], **settings)
    whole.run()
    run = make(callbacks=[Scripted(values)], **settings)
    run.restore(*load(list_checkpoints(tmp_path / FOLDER)[11])[1:])
    assert run.kept["best"]["epoch"] == 2
    run.run()
    assert run.ended == whole.ended
    assert_same(outcome(run), outcome(whole))


def test_a_nan_is_never_the_best() -> None:
    run = make(callbacks=[Scripted([float("nan"), 3.0, 2.0])], monitor="error", patience=2)
    run.run()
    assert run.kept["best"]["value"] == 2.0


def test_more_patience_goes_on_where_less_has_ended(tmp_path: Path) -> None:
    values, settings = [1.0, 2.0, 2.0, 2.0], {"epochs": 4, "monitor": "error"}
    keeper = CheckpointCallback(CheckpointConfig(every_steps=None), tmp_path, {"config": {}, "plan": None})
    make(callbacks=[Scripted(values), keeper], patience=1, **settings).run()
    run = make(callbacks=[Scripted(values)], patience=9, **settings)
    run.restore(*load(list_checkpoints(tmp_path / FOLDER)[-1])[1:])
    run.run()
    assert (run.position.epoch, run.ended) == (4, "")


def test_a_monitor_that_is_no_measure() -> None:
    with pytest.raises(ValueError, match="monitor must be one of error; found 'eror'"):
        make(callbacks=[ValidationCallback(MEASURES, batches)], monitor="eror").run()
    with pytest.raises(ValueError, match="monitor=error: expected validate_every above 0, found 0"):
        make(monitor="error", validate_every=0)


def test_a_plateau_lowers_the_learning_rate() -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, factor=0.1, patience=0)

    run = make(callbacks=[Scripted([3.0, 3.0, 3.0])], monitor="error", scheduler=plateau, warmup_steps=0)
    run.run()
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.1**2)
