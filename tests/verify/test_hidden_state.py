"""State outside parameters and buffers, and copies of batches."""

from __future__ import annotations

import threading
from collections import UserDict, deque
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum.verify._fresh_batch import fresh_batch, inputs_with_gradients
from mtl_accum.verify._hidden_state import HiddenState


class Plain:
    def __init__(self) -> None:
        self.steps = 0
        self.seen: list[Any] = []


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.count, self.kept = 0, None
        self.cache: dict[Any, Any] = {}
        self.queue: deque[Any] = deque([1], maxlen=1)
        self.mean, self.inner, self.names = torch.zeros(2), Plain(), {"a"}
        self.register_buffer("scale", torch.ones(2))

    def forward(self, x: Any) -> Tensor:
        self.count += 1
        self.kept = x
        self.cache[len(self.cache)] = x
        self.queue.append(2)
        self.names.add("b")
        self.mean += 1
        self.inner.steps += 1
        self.inner.seen.append(x)
        self.scale = self.scale * 2
        self.register_buffer(f"new{self.count}", torch.ones(1))
        self.new = 1
        return x

    def state(self) -> tuple[Any, ...]:
        return (
            *(self.count, self.kept, dict(self.cache), list(self.queue), set(self.names), self.mean.tolist()),
            *(self.inner.steps, len(self.inner.seen), sorted(vars(self)), sorted(self._buffers), self.scale),
        )


CALLABLES = {
    "module": lambda odd: odd,
    "closure": lambda odd: lambda x: odd(x),
    "method": lambda odd: odd.forward,
    "partial": lambda odd: partial(lambda m, x: m(x), odd),
    "container": lambda odd: lambda x, parts=({"a": [odd]},): parts[0]["a"][0](x),
}


@pytest.mark.parametrize("kind", CALLABLES)
def test_everything_is_put_back(kind: str) -> None:
    odd = Odd()
    call = CALLABLES[kind](odd)
    before = odd.state()
    hidden = HiddenState(call)
    call(torch.ones(2))
    call(torch.ones(2))
    assert odd.state() != before
    hidden.restore()
    assert odd.state() == before


def test_variables_of_functions() -> None:
    calls, log = 0, []

    def function(x: int) -> None:
        nonlocal calls
        calls += 1
        log.append(calls)

    hidden = HiddenState(function)
    function(1)
    hidden.restore()
    assert calls == 0 and log == []


def test_leaves_by_the_names_that_hold_them() -> None:
    log_variance, scale = torch.zeros((), requires_grad=True), nn.Parameter(torch.ones(1))
    parts = {"scale": scale}
    hidden = HiddenState(Odd(), lambda z, b: z * log_variance * parts["scale"])
    assert {name: id(tensor) for name, tensor in hidden.tensors.items()} == {
        "log_variance": id(log_variance),
        "scale": id(scale),
    }


@dataclass
class Record:
    image: torch.Tensor


class Opaque:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_a_copy_of_a_batch_shares_nothing_and_keeps_what_is_shared() -> None:
    whole, graph = torch.arange(12.0).reshape(6, 2), torch.ones(2, requires_grad=True) * 3
    leaf = torch.ones(2, requires_grad=True)
    leaf.grad = torch.ones(2)
    batch = {
        "whole": whole,
        "part": whole[2:4],
        "again": whole,
        "row": torch.arange(1000.0)[:3],
        "record": Record(torch.zeros(2)),
        "opaque": Opaque(torch.zeros(2)),
        "user": UserDict(a=[torch.zeros(2), "text", None]),
        "leaf": leaf,
        "graph": graph,
        "sparse": torch.eye(2).to_sparse(),
    }
    fresh = fresh_batch(batch)
    assert fresh["again"] is fresh["whole"] is not whole
    fresh["whole"].zero_()
    assert whole.sum() == 66 and fresh["part"].sum() == 0  # it is a view of the whole in the copy too
    assert fresh["row"].untyped_storage().nbytes() == 12
    for path in (lambda b: b["record"].image, lambda b: b["opaque"].tensor, lambda b: b["user"]["a"][0]):
        path(fresh).fill_(1)
        assert path(batch).sum() == 0
    assert fresh["leaf"].is_leaf and fresh["leaf"].requires_grad and fresh["leaf"].grad is None
    assert fresh["graph"].is_leaf and fresh["graph"].requires_grad
    assert leaf.grad is not None and graph.grad_fn is not None
    assert [path for path, _ in inputs_with_gradients(fresh)] == ["batch['leaf']", "batch['graph']"]


def test_what_cannot_be_copied_is_passed_on() -> None:
    lock = threading.Lock()
    tensor = torch.zeros(2)
    fresh = fresh_batch({"lock": lock, "x": tensor})
    assert fresh["lock"] is lock
    assert fresh["x"] is not tensor
