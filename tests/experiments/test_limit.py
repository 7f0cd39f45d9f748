"""The limit's arithmetic, on a network whose saved tensors can be counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from experiments.limit.saved import limit_of
from mtl_accum import MultiTaskModel, Split, SummedLoss, Task
from mtl_accum.memory._training_step import TrainingStep
from tests.memory.networks import convolutional

SAMPLES, WIDTH = 16, 8


def parts():
    trunk = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh())
    tasks = {
        "small": Task(nn.Linear(WIDTH, 1), nn.MSELoss(), "y"),
        "large": Task(nn.Sequential(nn.Linear(WIDTH, 100), nn.Tanh(), nn.Linear(100, 1)), nn.MSELoss(), "y"),
    }
    model = MultiTaskModel(trunk, tasks, "x")
    batch = {"x": torch.randn(SAMPLES, 4), "y": torch.randn(SAMPLES, 1)}
    return model.trunk, model.tasks, batch, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_every_storage_is_counted_once():
    found = limit_of(parts())
    in_trunk, in_heads = 4 * WIDTH + WIDTH, (WIDTH + 1) + (100 * WIDTH + 100) + (100 + 1)
    values = SAMPLES * (4 + 1)
    assert found.fixed == 4 * (2 * (in_trunk + in_heads) + values), "parameters, momentum, batch"
    assert (found.trunk_gradients, found.head_gradients) == (4 * in_trunk, 4 * in_heads)
    assert found.trunk == 4 * SAMPLES * WIDTH, "tanh saves its result, which is the representation"
    assert found.representation == 0
    assert found.gradient == 4 * SAMPLES * WIDTH
    assert found.name == "large"
    assert found.head == 4 * (SAMPLES * 100 + SAMPLES), "tanh's result and the loss's input"
    assert found.heads == found.head + 4 * SAMPLES
    assert found.bound <= found.budget


@pytest.mark.parametrize("mode", ["fp32", "autocast"])
def test_no_schedule_is_below_the_bound(mode):
    torch.manual_seed(0)
    model, batch = convolutional(mode)
    optimizer = torch.optim.AdamW(model.parameters())
    limit = limit_of((model.trunk, model.tasks, batch, optimizer))
    for edition in (Split(), Split(order="reverse"), SummedLoss()):
        step = TrainingStep(model.trunk, model.tasks, batch, optimizer, edition)
        step()
        with step.tensor_meter() as meter:
            step()
        passes = max(p.peak_bytes for p in meter.result().timeline if p.kind in ("forward", "backward"))
        assert passes >= limit.bound
