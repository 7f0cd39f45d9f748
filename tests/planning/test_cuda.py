"""Plans on a real device: pieces timed there, the chosen schedule within the budget, nothing changed."""

from __future__ import annotations

import pytest
import torch

from mtl_accum.memory import CudaMeter, TrainingStep
from tests.everything import everything
from tests.planning.networks import network, planned

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("budget", ["90MiB", "200MiB", "auto", "50%"])
def test_on_the_device(budget: str) -> None:
    model, batch, _ = network(samples=96, width=32)
    model.cuda()
    batch = {name: tensor.cuda() for name, tensor in batch.items()}
    optimizer = torch.optim.AdamW(model.parameters())
    before = everything(model, optimizer)
    found = planned(model, batch, optimizer, budget)
    after = everything(model, optimizer)
    assert len(before) == len(after)
    assert all(map(torch.equal, before, after))
    assert found.timed_by == "timings of the parts"
    step = TrainingStep(model.trunk, model.tasks, batch, optimizer, found.edition)
    step()
    with CudaMeter(torch.device("cuda", 0)) as meter:
        step()
    assert meter.result().peak_bytes <= found.budget.size
