"""What an edition is handed by mistake: one sentence with the fix, whichever edition it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mtl_accum import (
    Accumulated,
    Checkpointed,
    Edition,
    MultiTaskModel,
    Offloaded,
    OverBatches,
    Split,
    Task,
    compare,
    plan,
    predict,
)
from mtl_accum.editions._engine import _parts
from mtl_accum.testing import vector
from mtl_accum.verify._check import check
from tests.editions.editions import every_edition


def model() -> MultiTaskModel:
    torch.manual_seed(1)
    return MultiTaskModel(nn.Linear(6, 8), {"t": Task(nn.Linear(8, 2), nn.MSELoss(), "y0")}, "x").double()


# What is handed over, from a workload: (trunk, tasks); the error; what it must say.
SLIPS = {
    "tasks as a list": (lambda w: (w.trunk, list(w.tasks.values())), TypeError, r"tasks must be .* found list; give"),
    "tasks as a module list": (lambda w: (w.trunk, nn.ModuleList()), TypeError, "tasks must be .* found ModuleList"),
    "tasks as a model": (lambda w: (w.trunk, model()), TypeError, "tasks must be .*MultiTaskModel; pass model.tasks"),
    "no tasks": (lambda w: (w.trunk, {}), ValueError, "tasks must hold at least one task, found none; e.g."),
    "no tasks in a module": (lambda w: (w.trunk, nn.ModuleDict()), ValueError, "tasks must hold at least one task"),
    "tasks as None": (lambda w: (w.trunk, None), TypeError, "tasks must be .* found None"),
    "a model as trunk": (lambda w: (model(), w.tasks), TypeError, "trunk must .* whole MultiTaskModel.*model.trunk"),
    "a compiled model as trunk": (
        lambda w: (torch.compile(model(), backend="eager"), w.tasks),
        TypeError,
        "whole MultiTaskModel.*model.trunk",
    ),
    "no trunk": (lambda w: (None, w.tasks), TypeError, "trunk must be a callable .* found None"),
    "a tensor as trunk": (lambda w: (w.batch["x"], w.tasks), TypeError, "trunk must be a callable .* found Tensor"),
    "a class as trunk": (lambda w: (nn.Linear, w.tasks), TypeError, "trunk .* the class Linear; make an instance"),
    "a number as task": (lambda w: (w.trunk, {"t0": 3}), TypeError, "task 't0' must be a callable .* found int"),
    "a class as task": (lambda w: (w.trunk, {"t0": Task}), TypeError, "task 't0' .* the class Task; make an instance"),
    "a name as task": (lambda w: (w.trunk, {**w.tasks, "t9": "mse"}), TypeError, "task 't9' must be .* found str"),
}


@every_edition
@pytest.mark.parametrize("slip", SLIPS, ids=str)
def test_slip_is_one_sentence(edition: Edition, slip: str) -> None:
    make, error, message = SLIPS[slip]
    load = vector()
    trunk, tasks = make(load)
    with pytest.raises(error, match=message) as raised:
        edition.forward_backward(trunk, tasks, load.batch)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("entry", [check, compare, plan], ids=lambda entry: entry.__name__)
@pytest.mark.parametrize("slip", SLIPS, ids=str)
def test_slip_is_one_sentence_where_editions_are_measured(entry: Callable[..., Any], slip: str) -> None:
    make, error, message = SLIPS[slip]
    load = vector()
    with pytest.raises(error, match=message):
        entry(*make(load), load.batch)


# Everything that takes an edition, with its class in the instance's place.
TAKERS = {
    "Accumulated": lambda edition, w: Accumulated(edition, 2),
    "Checkpointed": lambda edition, w: Checkpointed(edition),
    "Offloaded": lambda edition, w: Offloaded(edition),
    "OverBatches": lambda edition, w: OverBatches(edition),
    "predict": lambda edition, w: predict(w.trunk, w.tasks, w.batch, edition=edition),
    "check": lambda edition, w: check(w.trunk, w.tasks, w.batch, editions={"e": edition}),
    "compare": lambda edition, w: compare(w.trunk, w.tasks, w.batch, editions={"e": edition}),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(
    ("edition", "message"),
    [(Split, "must be an instance, found the class Split; call it: Split"), (3, "must have forward_backward, found 3")],
)
def test_no_edition(taker: str, edition: int | type[Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        TAKERS[taker](edition, vector())


@every_edition
def test_tasks_in_a_module_dict(edition: Edition) -> None:
    load = vector()
    tasks = nn.ModuleDict(load.tasks)
    assert list(edition.forward_backward(load.trunk, tasks, load.batch)) == list(load.tasks)


@every_edition
def test_misspelt_targets_are_told_once(edition: Edition) -> None:
    load = vector()
    tasks = {"depth": Task(nn.Linear(8, 2).double(), nn.MSELoss(), "dept")}
    with pytest.warns(UserWarning, match="no task is present.*'depth'.*'dept'.*'x', 'y0', 'y1'") as told:
        assert edition.forward_backward(load.trunk, tasks, load.batch)["depth"] == 0
    assert len(told) == 1
    assert Path(told[0].filename).parent == Path(__file__).parent  # not a line of the package
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edition.forward_backward(load.trunk, dict(tasks), load.batch)  # as a loop that makes its mapping anew


@every_edition
def test_one_task_of_several_may_be_absent(edition: Edition) -> None:
    load = vector(tasks=1)
    tasks = {**load.tasks, "depth": Task(nn.Linear(8, 2).double(), nn.MSELoss(), "dept")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert edition.forward_backward(load.trunk, tasks, load.batch)["t0"] > 0


@every_edition
def test_counts_of_0_need_no_word(edition: Edition) -> None:
    """Labels that are all ignored are what counts are for; a target that is missing may be misspelt."""
    load = vector()
    tasks = {"depth": Task(nn.Linear(8, 2).double(), nn.MSELoss(), "y0", count=lambda batch: 0)}
    assert edition.forward_backward(load.trunk, tasks, load.batch) == {"depth": 0}


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, as far as torch tells."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(_parts, "_warned", set())


def wrapped(module: nn.Module) -> DistributedDataParallel:
    """The wrapper, without the process group that its constructor asks for."""
    wrapper = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = module
    return wrapper


WRAPPED = {
    "trunk": lambda w: (wrapped(nn.Linear(6, 8)), w.tasks, "trunk"),
    "task": lambda w: (w.trunk, {**w.tasks, "t1": wrapped(w.tasks["t1"])}, "task 't1'"),
    "compiled": lambda w: (
        w.trunk,
        {**w.tasks, "t1": torch.compile(wrapped(w.tasks["t1"]), backend="eager")},
        "task 't1'",
    ),
    "in the model": lambda w: (model_of(wrapped(nn.Linear(6, 8))).trunk, w.tasks, "trunk"),
    "in a module dict": lambda w: (w.trunk, nn.ModuleDict({"t1": wrapped(w.tasks["t1"])}), "task 't1'"),
}


def model_of(trunk: nn.Module) -> MultiTaskModel:
    return MultiTaskModel(trunk, dict(model().tasks), "x")


@every_edition
@pytest.mark.parametrize("kind", WRAPPED)
def test_wrapped_in_ddp(edition: Edition, kind: str, ranks: None) -> None:
    load = vector()
    trunk, tasks, name = WRAPPED[kind](load)
    with pytest.raises(TypeError, match=f"{name} must be a plain module.*hides count.*\\.module.*all_reduce"):
        edition.forward_backward(trunk, tasks, load.batch)


@every_edition
def test_several_ranks_are_told_once(edition: Edition, ranks: None) -> None:
    load = vector()
    with pytest.warns(UserWarning, match="on 2 processes: the gradients are this process's own.*all_reduce") as told:
        edition.forward_backward(load.trunk, load.tasks, load.batch)
    edition.forward_backward(load.trunk, load.tasks, load.batch)  # a second warning would be an error
    assert len(told) == 1
