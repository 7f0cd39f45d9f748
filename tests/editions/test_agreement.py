"""Several processes: wrapped parts are refused by name, and one warning says whose gradients these are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mtl_accum import (
    Accumulated,
    Cached,
    Checkpointed,
    Edition,
    MultiTaskModel,
    Offloaded,
    OverBatches,
    PerTask,
    Split,
    Task,
)
from mtl_accum.editions._engine import _parts

EDITIONS = [PerTask(), Split(), Cached(2), Accumulated(Split(), 2), Checkpointed(Split()), Offloaded(Split())]
every_edition = pytest.mark.parametrize("edition", EDITIONS, ids=repr)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Weighted(nn.Module):
    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task

    def forward(self, z: Any, batch: Any) -> Any:
        return 0.5 * self.task(z, batch)


def wrapped(module: nn.Module) -> nn.Module:
    return DistributedDataParallel(module)


def task(head: Any = None) -> Task:
    return Task(head or nn.Linear(4, 2), nn.CrossEntropyLoss(), "y")


def parts(trunk: Any = None, one: Any = None) -> tuple[Any, dict[str, Any]]:
    model = MultiTaskModel(trunk or nn.Linear(3, 4), {"a": task()}, inputs="x")
    return model.trunk, {**model.tasks, "b": one or task()}


BATCH = {"x": torch.ones(6, 3), "y": torch.tensor([0, 1, -100, -100, -100, 1])}
PARTS = {
    "trunk": (lambda: (wrapped(nn.Linear(3, 4)), parts()[1]), "trunk"),
    "module of the trunk": (lambda: parts(wrapped(nn.Linear(3, 4))), "trunk"),
    "whole model": (lambda: (wrapped(MultiTaskModel(nn.Linear(3, 4), {"a": task()}, "x")), parts()[1]), "trunk"),
    "task": (lambda: parts(one=wrapped(task())), "task 'b'"),
    "head": (lambda: parts(one=task(wrapped(nn.Linear(4, 2)))), "task 'b'"),
    "task below a module": (lambda: parts(one=Weighted(wrapped(task()))), "task 'b'"),
}


@every_edition
@pytest.mark.parametrize("name", PARTS)
def test_wrapped_parts_are_refused(one_process: None, edition: Edition, name: str) -> None:
    make, part = PARTS[name]
    message = (
        f"{part} must be a plain module, found one wrapped in DistributedDataParallel, which hides count.*pass the "
        r"module itself .*average the gradients after the call: torch\.distributed\.all_reduce"
    )
    with pytest.raises(TypeError, match=message) as caught:
        edition.forward_backward(*make(), BATCH)
    assert "\n" not in str(caught.value)


@every_edition
def test_plain_parts_run_in_one_process_without_a_word(one_process: None, edition: Edition) -> None:
    trunk, tasks = parts()
    losses = edition.forward_backward(trunk, tasks, BATCH)
    assert losses.keys() == tasks.keys()


def test_several_processes_are_warned_once(one_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(_parts, "_warned", set())
    trunk, tasks = parts()
    message = "on 2 processes: the gradients are this process's own.*average the gradients after the call.*all_reduce"
    with pytest.warns(UserWarning, match=message) as caught:
        OverBatches(Checkpointed(Split())).forward_backward(trunk, tasks, [BATCH, BATCH])
    assert caught[0].filename == __file__
    assert len(caught) == 1
    Split().forward_backward(trunk, tasks, BATCH)  # warnings are errors
