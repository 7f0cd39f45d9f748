"""What loggers are told, that TensorBoard has it, and that metrics come from the heads' own outputs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MeanSquaredError

from mtl_accum import Accumulated, Cached, Edition, MultiTaskModel, PerTask, Split, SummedLoss, Task
from mtl_accum.training.callbacks import (
    FaultTolerantLogger,
    MetricsCallback,
    MLflow,
    TensorBoard,
    ValidationCallback,
    WeightsAndBiases,
    training_metrics,
)
from mtl_accum.training.evaluation import EvalMetric
from mtl_accum.training.loop import TrainConfig, Training

CPU = torch.device("cpu")


class Told:
    def __init__(self) -> None:
        self.entries: dict[Any, Any] = {}

    def log(self, step: int, values: dict[str, float]) -> None:
        self.entries.setdefault(step, {}).update(values)

    def close(self) -> None:
        pass


def network() -> MultiTaskModel:
    torch.manual_seed(0)
    return MultiTaskModel(
        nn.Linear(3, 4), {name: Task(nn.Linear(4, 1), nn.MSELoss(), "y", weight=2.0) for name in "ab"}, "x"
    )


def batches(count: int = 6) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(8, 3, generator=generator) for _ in range(count)]
    return [{"x": x, "y": x.sum(1, keepdim=True)} for x in rows]


MEASURES = {
    "error": EvalMetric("a", MeanSquaredError()),
    "of_input": EvalMetric("a", MeanSquaredError(), prediction="y"),
}
EDITIONS = [SummedLoss(), PerTask(), Split(), Split(head_chunks=3), Cached(3), Accumulated(Split(), 3)]


def train(
    edition: Edition,
    *,
    every: int = 2,
    loop: TrainConfig | None = None,
    callbacks: list[ValidationCallback] | tuple[()] = (),
) -> tuple[dict[int, Any], dict[str, Any], list[int]]:
    net, told = network(), Told()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    calls = []
    net.tasks["a"].head.register_forward_hook(lambda *_: calls.append(1))
    with training_metrics(net, MEASURES, CPU) as metrics:
        record = MetricsCallback(told, every, metrics)
        run = Training(
            *(net, batches(), [edition], optimizer, loop or TrainConfig(epochs=1)),
            device=CPU,
            callbacks=[record, *callbacks],
        )
        losses = run.run()
    assert all(not task.watchers for task in net.tasks.values())
    return told.entries, losses, calls


@pytest.mark.parametrize("edition", EDITIONS, ids=repr)
def test_every_figure(edition: Edition) -> None:
    entries, losses, calls = train(edition)
    assert list(entries) == [2, 4, 6]
    for step, values in entries.items():
        assert values["loss/a"] == losses["a"][step - 1]
        assert values["loss/sum"] == pytest.approx(losses["a"][step - 1] + losses["b"][step - 1])
        assert (values["weight/a"], values["learning_rate"], values["skipped"]) == (2.0, 0.05, 0)
        assert all(values[f"gradient_norm/{name}"] > 0 for name in ("trunk", "a", "b"))
        assert values["memory/process_peak_mib"] > 10
        assert "train/of_input" not in values
    assert entries[4]["step/seconds"] > 0
    # the loss is twice the mean squared error, so the epoch's error is half the mean of its losses
    assert entries[6]["train/error"] == pytest.approx(sum(losses["a"]) / 2 / 6, rel=1e-5)
    pieces = {"Split": 3 if edition == Split(head_chunks=3) else 1, "Accumulated": 3}.get(type(edition).__name__, 1)
    assert len(calls) == 6 * pieces, "no forward of its own"


def test_metrics_begin_again_with_every_epoch() -> None:
    entries, losses, _ = train(Split(), every=6, loop=TrainConfig(epochs=2))
    assert entries[12]["train/error"] == pytest.approx(sum(losses["a"][6:]) / 2 / 6, rel=1e-5)


def test_what_an_evaluation_has_left_in_a_measure_does_not_count() -> None:
    MEASURES["error"].metric.update(torch.zeros(8), torch.ones(8))
    entries, losses, _ = train(Split())
    assert entries[6]["train/error"] == pytest.approx(sum(losses["a"]) / 2 / 6, rel=1e-5)
    MEASURES["error"].metric.reset()


def test_validation_is_told_too() -> None:
    told = Told()
    record = MetricsCallback(told, 1, {})
    validation = ValidationCallback(MEASURES, batches, record.log_validation)
    train(Split(), loop=TrainConfig(epochs=2), callbacks=[validation])
    assert list(told.entries) == [6, 12]
    assert told.entries[12]["validation/error"] < told.entries[6]["validation/error"]
    assert told.entries[12]["validation/of_input"] == 0


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoard(tmp_path, {})
    logger.log(3, {"loss/a": 0.5})
    logger.log(4, {"loss/a": 0.25})
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/a")] == [(3, 0.5), (4, 0.25)]


class Broken(Told):
    """Its disk is full from the second entry on."""

    def log(self, step: int, values: dict[str, float]) -> None:
        super().log(step, values)
        if len(self.entries) > 1:
            raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise RuntimeError("cannot be flushed")


def test_training_does_without_a_logger_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    logger = FaultTolerantLogger(broken)
    for step in range(5):
        logger.log(step, {"loss": 1.0})
    logger.close()
    assert broken.entries.keys() == {0, 1}
    lines = [record.message for record in caplog.records if record.name.startswith("mtl_accum")]
    assert lines == ["the logger failed (OSError: [Errno 28] No space left on device); training goes on without it"]
    with pytest.raises(KeyboardInterrupt):
        FaultTolerantLogger(Interrupted()).log(0, {})


class Interrupted(Told):
    def log(self, step: int, values: dict[str, float]) -> None:
        raise KeyboardInterrupt


def test_a_full_disk_under_tensorboard_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its thread would print a traceback, and training would end at some later entry."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = threading.excepthook
    logger = FaultTolerantLogger(TensorBoard(tmp_path, {}))
    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    with pytest.raises(OSError, match="No space left"):  # from the start: a run ends before it has done anything
        TensorBoard(tmp_path, {})
    deadline = time.monotonic() + 10
    step = 0
    while not caplog.records and time.monotonic() < deadline:
        logger.log(step := step + 1, {"loss/$$x": 1.0})
        time.sleep(0.01)
    logger.close()
    assert [record.levelname for record in caplog.records if record.name.startswith("mtl_accum")] == ["WARNING"]
    assert capfd.readouterr() == ("", "")
    assert threading.excepthook is before


class Fake(ModuleType):
    """Stands for a package that is not installed: notes what it is told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **options: Any) -> Fake:
            self.calls.append((name, arguments, options))
            return self

        return call


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    logger = MLflow(tmp_path / "run", {"a": {"b": 1}, "c": "x" * 1000}, tracking_uri="file:elsewhere")
    logger.log(3, {"loss/a": 0.5})
    logger.close()
    assert [name for name, *_ in fake.calls] == [
        "set_tracking_uri",
        "set_experiment",
        "start_run",
        "log_params",
        "log_metrics",
        "end_run",
    ]
    assert fake.calls[2][2] == {"run_name": "run"}
    assert fake.calls[3][1] == ({"a.b": "1", "c": "x" * 500},)
    assert fake.calls[4][1:] == (({"loss/a": 0.5},), {"step": 3})


def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    logger = WeightsAndBiases(tmp_path, {"a": 1}, mode="offline")
    logger.log(3, {"loss/a": 0.5})
    logger.close()
    (_, _, options), log, finish = fake.calls
    assert (options["project"], options["dir"], options["config"]) == ("mtl_accum", str(tmp_path), {"a": 1})
    assert log == ("log", ({"loss/a": 0.5},), {"step": 3})
    assert finish[0] == "finish"


@pytest.mark.parametrize(("kind", "package"), [(MLflow, "mlflow"), (WeightsAndBiases, "wandb")])
def test_a_package_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Any], package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf'logger={package}: .* pip install "mtl-accum\[{package}\]"'):
        kind(tmp_path, {})


def test_every_is_positive() -> None:
    with pytest.raises(ValueError, match="log_every must be a positive integer"):
        MetricsCallback(Told(), 0, {})
