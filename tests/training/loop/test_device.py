"""Which device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_accum.jobs._experiment import Prepared
from mtl_accum.jobs._plan import plan_and_write
from mtl_accum.training.loop import _device, describe_device, lock_device, resolve_device, to_device

CPU = torch.device("cpu")


def test_auto_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")


def test_cuda_is_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="device=cuda:2: expected a CUDA device, found 2 here"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "tpu:0", "meta", ""])
def test_unknown(name: str) -> None:
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or cuda:N, found"):
        resolve_device(name)


def test_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="device=cuda: expected a CUDA device, found none here; use device=cpu"):
        resolve_device("cuda")


def test_describe_and_move() -> None:
    assert describe_device(torch.device("cpu"))["threads"] >= 1
    moved = to_device({"x": torch.ones(2), "name": "n"}, torch.device("meta"))
    assert moved["x"].device.type == "meta"
    assert moved["name"] == "n"


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The device's lock in the hands of somebody else, until the event is set; and its path."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    release, taken = threading.Event(), threading.Event()

    def hold() -> None:
        with lock_device(CPU):
            taken.set()
            release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(10)
    yield release, *tmp_path.iterdir()
    release.set()
    thread.join(10)


def test_a_wait_for_the_device_is_said_with_the_path(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    release, path = held
    monkeypatch.setattr(_device, "_SILENT_SECONDS", 0.05)
    monkeypatch.setattr(_device._LOG, "warning", lambda *said: (lines.append(said[0] % said[1:]), release.set()))
    lines: list[Any] = []
    with lock_device(CPU):
        assert lines == [f"another process is measuring on cpu: waiting for it to release {path}"]
    with lock_device(CPU):
        assert len(lines) == 1, "nothing is said where nobody waits"


def test_a_budget_that_is_none_is_refused_without_waiting(held: Any) -> None:
    with pytest.raises(ValueError, match="budget must be a size such as 6GiB"):
        plan_and_write(Prepared(None, None, None, CPU), "6 apples", device=None, head={}, run=None, on_progress=print)
