"""The start of a step: what tells that it cannot be gone back to, and what is put back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_accum.training.loop._rollback import Buffers, RollbackError, StepRollback, WriteDetector


class Counting(torch.optim.SGD):
    """Keeps a number in its state, and makes a new tensor in every step."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["lr"] *= 0.5
            for parameter in group["params"]:
                state = self.state[parameter]
                state["steps"] = state.get("steps", 0) + 1
                state["mean"] = state.get("mean", 0) + parameter.grad


def parts(kind=torch.optim.AdamW):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 1)).double()
    return model, kind(model.parameters(), lr=0.1)


def backward(model):
    model.zero_grad()
    model(torch.randn(5, 3, dtype=torch.float64)).square().mean().backward()


def test_whether_anything_was_written():
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


def test_a_state_alone_counts():
    model, optimizer = parts()
    backward(model)
    optimizer.step()
    versions = WriteDetector(list(model.parameters()), optimizer)
    versions.mark()
    next(iter(optimizer.state.values()))["step"] += 1
    with pytest.raises(RollbackError):
        versions.restore()


def test_numbers_and_new_tensors_are_put_back():
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


def test_a_list_in_the_state_may_have_been_written_to():
    model, optimizer = parts()
    optimizer.state[next(model.parameters())]["history"] = []
    versions = WriteDetector([], optimizer)
    versions.mark()
    with pytest.raises(RollbackError):
        versions.restore()


def test_buffers_that_were_written_to_or_replaced():
    model, _ = parts()
    norm = model[1]
    norm.register_buffer("nothing", None)
    buffers = Buffers(model)
    for _ in range(3):
        buffers.mark()
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        mean = norm.running_mean
        model(torch.randn(5, 3, dtype=torch.float64))
        norm.running_mean = torch.ones(4, dtype=torch.float64)
        norm.nothing = torch.ones(1)
        buffers.restore()
        assert norm.running_mean is mean
        assert norm.nothing is None
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
        model(torch.randn(5, 3, dtype=torch.float64))
    norm.running_mean = torch.ones(4, dtype=torch.float64)  # another tensor from now on
    buffers.mark()
    norm.running_mean.zero_()
    buffers.restore()
    assert torch.equal(norm.running_mean, torch.ones(4, dtype=torch.float64))


def test_a_network_without_buffers():
    model = nn.Linear(2, 2)
    undo = StepRollback(model, torch.optim.SGD(model.parameters()))
    undo.mark(copy=False)
    drawn = torch.rand(1)
    undo.restore()
    assert torch.equal(torch.rand(1), drawn)
