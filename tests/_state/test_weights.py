"""Writes to parameters and optimizer state: detected without copies; what is no tensor is put back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mtl_accum._state import RollbackError, WriteDetector


class Counting(torch.optim.SGD):
    """Keeps a number in its state, and makes a new tensor in every step."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            group["lr"] *= 0.5
            for parameter in group["params"]:
                state = self.state[parameter]
                state["steps"] = state.get("steps", 0) + 1
                state["mean"] = state.get("mean", 0) + parameter.grad


def parts(kind: Any = torch.optim.AdamW) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 1)).double()
    return model, kind(model.parameters(), lr=0.1)


def backward(model: Any) -> None:
    model.zero_grad()
    model(torch.randn(5, 3, dtype=torch.float64)).square().mean().backward()


def test_whether_anything_was_written() -> None:
    model, optimizer = parts()
    backward(model)
    optimizer.step()
    versions = WriteDetector(list(model.parameters()), optimizer)
    versions.mark()
    backward(model)
    versions.restore()
    optimizer.step()
    with pytest.raises(RollbackError, match="were written to, and there is no copy"):
        versions.restore()


def test_a_state_alone_counts() -> None:
    model, optimizer = parts()
    backward(model)
    optimizer.step()
    versions = WriteDetector(list(model.parameters()), optimizer)
    versions.mark()
    next(iter(optimizer.state.values()))["step"] += 1
    with pytest.raises(RollbackError):
        versions.restore()


def test_numbers_and_new_tensors_are_put_back() -> None:
    model, optimizer = parts(Counting)
    backward(model)
    optimizer.step()
    kept = {parameter: dict(state) for parameter, state in optimizer.state.items()}
    versions = WriteDetector([], optimizer)  # as if no parameter had been written to yet
    versions.mark()
    optimizer.step()
    extra = torch.zeros(1)
    optimizer.state[extra] = {"steps": 1}
    versions.restore()
    assert extra not in optimizer.state
    assert optimizer.param_groups[0]["lr"] == 0.05
    for parameter, state in kept.items():
        assert optimizer.state[parameter].keys() == state.keys()
        assert all(optimizer.state[parameter][name] is value for name, value in state.items())


def test_a_list_in_the_state_may_have_been_written_to() -> None:
    model, optimizer = parts()
    optimizer.state[next(model.parameters())]["history"] = []
    versions = WriteDetector([], optimizer)
    versions.mark()
    with pytest.raises(RollbackError):
        versions.restore()
