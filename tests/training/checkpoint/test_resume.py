"""A run that goes on ends as one that was never interrupted, to the last bit."""

from __future__ import annotations

import logging
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtl_accum import Split, SummedLoss
from mtl_accum.training.callbacks import CheckpointCallback, CheckpointConfig
from mtl_accum.training.checkpoint import FOLDER, CheckpointError, collect, find_checkpoint, list_checkpoints, restore
from mtl_accum.training.checkpoint._store import load, save
from mtl_accum.training.loop import Callback, NoMemoryLeftError, StoppedError
from tests.training.runs import assert_same, loader, make, outcome

ALSO = {"config": {"a": 1}, "plan": None}


def keeper(folder: Path, **settings: Any) -> CheckpointCallback:
    return CheckpointCallback(
        CheckpointConfig(**{"every_steps": 1, "every_seconds": None, "keep": 100, **settings}), folder, ALSO
    )


def generated() -> Any:
    return loader(torch.Generator().manual_seed(5))


class Listed(list):
    """A loader that can begin anywhere."""

    def at(self, epoch: int, batch: int) -> Any:
        return iter(self[batch:] if epoch % 2 == 0 else self[::-1][batch:])


def listed() -> Listed:
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    return Listed(list(generated()))


LOOPS = {
    "plain": {},
    "accumulate": {"accumulate": 2},
    "clipped": {"clip_norm": 0.5, "on_nan": "skip"},
    "cosine": {"scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)},
    "steps": {"scheduler": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 7])},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
}


@pytest.mark.parametrize("batches", [loader, generated, listed], ids=["torch", "its own generator", "at"])
@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_from_every_step(tmp_path: Path, batches: Callable[..., Any], loop: dict[str, Any]) -> None:
    whole = make(batches(), [keeper(tmp_path)], **loop)
    whole.run()
    expected = outcome(whole)
    steps = whole.position.step
    found = list_checkpoints(tmp_path / FOLDER)
    assert len(found) == steps
    for path in found[:: 1 if loop == {} else 3]:
        run = make(batches(), **loop)
        torch.manual_seed(99)  # wherever the process was
        run.restore(*load(path)[1:])
        assert run.position.step == int(path.name.removeprefix("step-"))
        run.run()
        assert_same(outcome(run), expected)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
def test_with_every_optimizer(tmp_path: Path, kind: type[Any]) -> None:
    whole = make(callbacks=[keeper(tmp_path)], kind=kind)
    whole.run()
    run = make(kind=kind)
    run.restore(*load(list_checkpoints(tmp_path / FOLDER)[4])[1:])
    run.run()
    assert_same(outcome(run), outcome(whole))


class Kill(Callback):
    """Sends a signal to this process after some step."""

    def __init__(self, step: int, number: Any) -> None:
        self.step, self.number = step, number

    def on_step(self, run: Any) -> None:
        if run.position.step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_leaves_a_checkpoint(tmp_path: Path, number: Any) -> None:
    expected = make()
    expected.run()
    handler = signal.getsignal(number)
    run = make(callbacks=[Kill(7, number), keeper(tmp_path, every_steps=None)])
    with pytest.raises(StoppedError, match="stopped after step 7") as error:
        run.run()
    assert error.value.exit_code == 128 + number
    assert signal.getsignal(number) is handler
    (path,) = list_checkpoints(tmp_path / FOLDER)
    again = make()
    again.restore(*load(path)[1:])
    again.run()
    assert_same(outcome(again), outcome(expected))


def test_out_of_memory_leaves_the_last_good_step(tmp_path: Path) -> None:
    from mtl_accum.editions._engine import listen
    from tests.training.injector import Injector

    same_bits = {"schedules": (Split(order="reverse"), SummedLoss())}
    expected = make(**same_bits)
    expected.run()
    run = make(callbacks=[keeper(tmp_path, every_steps=None)], **same_bits)
    with pytest.raises(NoMemoryLeftError) as error, listen(Injector(2, {5, 6})):
        run.run()
    assert error.value.undone
    (path,) = list_checkpoints(tmp_path / FOLDER)
    assert path.name == "step-0000000005"
    again = make(**same_bits)
    again.restore(*load(path)[1:])
    again.run()
    assert_same(outcome(again), outcome(expected))


def test_out_of_memory_in_the_update_leaves_nothing_wrong(tmp_path: Path) -> None:
    from mtl_accum.editions._engine import listen
    from tests.training.injector import Injector

    run = make(callbacks=[keeper(tmp_path, every_steps=None)], schedules=make().train_step._schedules[:1])
    with pytest.raises(NoMemoryLeftError) as error, listen(Injector(7, {3})):
        run.run()
    assert not error.value.undone
    assert not list_checkpoints(tmp_path / FOLDER)


def test_memory_formats_come_back(tmp_path: Path) -> None:
    """Kernels pair the elements of parameter and state by their place in memory."""
    net = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    written = save(tmp_path / "step-1", *collect(net, optimizer, {}))
    other = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    stepper = torch.optim.AdamW(other.parameters())
    restore(other, stepper, *load(written)[1:])
    assert other.weight.stride() == net.weight.stride()
    found, expected = stepper.state[other.weight]["exp_avg"], optimizer.state[net.weight]["exp_avg"]
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride() == other.weight.stride()


def test_out_of_memory_in_the_first_fp16_update() -> None:
    from mtl_accum.editions._engine import listen
    from tests.training.injector import Injector

    run = make(precision="fp16", schedules=(Split(), SummedLoss()))
    with listen(Injector(7, {0})):
        run.run()
    assert run.position.step == 15


def test_of_another_model_or_optimizer(tmp_path: Path) -> None:
    make(callbacks=[keeper(tmp_path)], epochs=1).run()
    path = list_checkpoints(tmp_path / FOLDER)[-1]
    other = make()
    other.model.tasks["a"].head = torch.nn.Linear(7, 1)
    with pytest.raises(ValueError, match="the checkpoint is of another model or optimizer: .*size mismatch"):
        other.restore(*load(path)[1:])


def test_before_the_first_step_nothing_is_written(tmp_path: Path) -> None:
    make(callbacks=[keeper(tmp_path)], epochs=0).run()
    assert not (tmp_path / FOLDER).exists()


class Full(Callback):
    """From some step on the folder cannot be written."""

    def __init__(self, folder: Path, monkeypatch: Any) -> None:
        self.folder, self.patch = folder, monkeypatch

    def on_step(self, run: Any) -> None:
        if run.position.step == 5:
            self.patch.setattr("os.replace", self._full)

    def _full(self, *_: Any) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_a_line_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = make()
    expected.run()
    run = make(callbacks=[Full(tmp_path, monkeypatch), keeper(tmp_path)])
    with caplog.at_level(logging.WARNING, logger="mtl_accum"):
        run.run()
    assert_same(outcome(run), outcome(expected))
    assert [path.name[-1] for path in list_checkpoints(tmp_path / FOLDER)] == ["1", "2", "3", "4"]
    lines = [record.message for record in caplog.records if record.name.startswith("mtl_accum")]
    (line,) = lines
    assert "step-0000000005: could not be written (OSError: [Errno 28] No space left on device); training" in line


def test_every_reason_is_a_line_and_so_is_the_same_one_after_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reasons = iter([*["full"] * 3, None, *["full"] * 2, *["gone"] * 2, None])

    def write(self: Any, step: int, *_: Any, **__: Any) -> None:
        reason = next(reasons, None)
        if reason:
            raise CheckpointError(f"step {step}: {reason}") from OSError(reason)

    monkeypatch.setattr("mtl_accum.training.checkpoint._retention.CheckpointWriter.write", write)
    with caplog.at_level(logging.WARNING, logger="mtl_accum"):
        make(callbacks=[keeper(tmp_path)]).run()
    lines = [record.message.partition(";")[0] for record in caplog.records if record.name.startswith("mtl_accum")]
    assert lines == ["step 1: full", "step 5: full", "step 7: gone"]


@pytest.mark.parametrize("error", [OSError(30, "Read-only file system"), PermissionError(13, "Permission denied")])
def test_a_folder_that_cannot_be_written_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    run = make(callbacks=[keeper(tmp_path, every_steps=10)])
    with caplog.at_level(logging.WARNING, logger="mtl_accum"):
        run.run()
    assert run.position.step == 15
    assert f"could not be written ({type(error).__name__}: {error}); training goes on" in caplog.text


def test_a_full_disk_ends_training_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(callbacks=[Full(tmp_path, monkeypatch), keeper(tmp_path, on_error="raise")])
    with pytest.raises(CheckpointError, match="No space left on device"):
        run.run()
    assert run.position.step == 5


def test_which_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = [tmp_path / "day" / name for name in ("one", "two", "new")]
    for folder, value in zip(runs[:2], (1, 2), strict=True):
        also = {"config": {"model": {"width": value}, "epochs": 3}, "plan": None}
        make(callbacks=[CheckpointCallback(CheckpointConfig(every_steps=2), folder, also)], epochs=1).run()
    config = {"model": {"width": 1}, "epochs": 9}
    assert find_checkpoint(None, runs[2], config) is None
    assert find_checkpoint(str(runs[0]), runs[2], config).path == list_checkpoints(runs[0] / FOLDER)[-1]
    first = list_checkpoints(runs[0] / FOLDER)[0]
    assert find_checkpoint(str(first), runs[2], config).path == first
    with pytest.raises(ValueError, match=r"the configuration has changed since: model.width was 2, is 1$"):
        find_checkpoint(str(runs[1]), runs[2], config)
    assert find_checkpoint("auto", runs[2], config).path == list_checkpoints(runs[0] / FOLDER)[-1]
    assert find_checkpoint("auto", runs[1], {"model": {"width": 2}}).path == list_checkpoints(runs[1] / FOLDER)[-1]
    with caplog.at_level(logging.INFO, logger="mtl_accum"):
        assert find_checkpoint("auto", runs[2], {"model": {"width": 3}}) is None
    assert "no checkpoint of this configuration; starting from the beginning" in caplog.text
    with pytest.raises(CheckpointError, match=r"resume=.*none: expected a run's folder with checkpoints/step-"):
        find_checkpoint(str(tmp_path / "none"), runs[2], config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_steps": 0}, "checkpoint.every_steps must be a positive integer"),
        ({"every_seconds": -1}, "checkpoint.every_seconds must be a number of at least 0, or null; found -1"),
        ({"keep": 0}, "checkpoint.keep must be a positive integer"),
        ({"on_error": "cry"}, "checkpoint.on_error must be warn or raise; found 'cry'"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CheckpointConfig(**settings)
