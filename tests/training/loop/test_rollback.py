"""The rollback of a training step."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from mtl_accum._state import RollbackError
from mtl_accum.training.loop._rollback import StepRollback


def test_a_network_without_buffers() -> None:
    model = nn.Linear(2, 2)
    undo = StepRollback(model, torch.optim.SGD(model.parameters()))
    undo.mark(copy=False)
    drawn = torch.rand(1)
    undo.restore()
    assert torch.equal(torch.rand(1), drawn)


@pytest.mark.parametrize("copy", [True, False])
def test_a_forward_and_a_backward_are_undone(copy: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rollback = StepRollback(model, optimizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rollback.mark(copy=copy)
    model(torch.randn(5, 3)).sum().backward()
    rollback.restore()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    optimizer.step()
    if copy:
        rollback.restore()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    else:
        with pytest.raises(RollbackError, match="were written to"):
            rollback.restore()


def test_marking_a_step_takes_less_than_a_millisecond_for_300_parameters() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)) for _ in range(150)))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    assert len(list(model.parameters())) == 300
    rollback = StepRollback(model, optimizer)
    seconds = []
    for _ in range(200):
        start = time.thread_time()
        rollback.mark(copy=False)
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 1e-3
