"""Modules are found behind any callable that a person would write as a trunk."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mtl_accum import Accumulated, Edition, Split, SummedLoss
from mtl_accum.editions import modules_of
from mtl_accum.editions._engine import _modules
from mtl_accum.testing import vector

NET = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def through_a_global(x: Any) -> Any:
    return NET(x)


def through_another_function(x: Any) -> Any:
    return through_a_global(x)


class Holder:
    def __init__(self) -> None:
        self.parts = {"net": [NET]}

    def method(self, x: Any) -> Any:
        return self.parts["net"][0](x)

    def __call__(self, x: Any) -> Any:
        return self.method(x)


class CallsGlobal:
    def __call__(self, x: Any) -> Any:
        return NET(x)


def closure() -> Callable[..., Any]:
    net = NET
    return lambda x: net(x)


CALLABLES = {
    "module": NET,
    "its method": NET.forward,
    "global": through_a_global,
    "function of a function": through_another_function,
    "closure": closure(),
    "partial": functools.partial(lambda net, x: net(x), NET),
    "keyword of a partial": functools.partial(lambda x, net: net(x), net=NET),
    "default": lambda x, net=NET: net(x),
    "callable object": Holder(),
    "method of an object": Holder().method,
    "global in __call__": CallsGlobal(),
    "wrapper": functools.wraps(through_a_global)(lambda *a: through_a_global(*a)),
    "compiled module": torch.compile(NET, backend="eager"),
    "compiled function": torch.compile(through_a_global, backend="eager"),
}


@pytest.mark.parametrize("name", CALLABLES, ids=str)
def test_found(name: str) -> None:
    found = modules_of(CALLABLES[name])
    assert all(module in found for module in NET.modules())
    assert len(found) == len(set(map(id, found)))


def test_a_function_without_modules_has_none() -> None:
    assert modules_of(lambda x: torch.relu(x)) == []


def test_an_attribute_that_is_called_like_a_global_is_none() -> None:
    assert modules_of(lambda x: x.NET(x).NET) == []
    assert modules_of(lambda x: [lambda: NET(x)]) == list(NET.modules())


def test_a_long_list_is_not_walked() -> None:
    data = list(range(10_000_000))
    assert modules_of(lambda x: data[0]) == []


@pytest.mark.parametrize("inner", [SummedLoss(), Split()], ids=repr)
def test_pieces_do_not_make_more_searches(inner: Edition, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search costs more than a small head does."""
    searches, search = [], _modules._roots
    monkeypatch.setattr(_modules, "_roots", lambda function: searches.append(function) or search(function))
    load = vector(tasks=3)
    counts = []
    for micro_batches in (2, 2, 7):
        searches.clear()
        Accumulated(inner, micro_batches).forward_backward(load.trunk, load.tasks, load.batch)
        counts.append(len(searches))
    assert counts[1] == counts[2] <= 2 * (1 + len(load.tasks))
