"""Real steps without a trace: what is put back, bit for bit, and what cannot be."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtl_accum import MultiTaskModel, Split, Task
from mtl_accum.memory import TrainingStep
from mtl_accum.verify import without_a_trace
from tests.everything import everything

OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, amsgrad=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters),  # its state is there from the beginning
    "a rate in a tensor": lambda parameters: torch.optim.Adam(parameters, lr=torch.tensor(0.01)),
    "lbfgs": lambda parameters: torch.optim.LBFGS(parameters),  # lists of tensors, and its step wants a closure
    "none": lambda parameters: None,
}


class Noisy(nn.Module):
    """Draws from every generator there is."""

    def forward(self, x: Tensor) -> Tensor:
        return x + random.random() + np.random.rand() + torch.rand(())


def parts(optimizer: str = "adamw") -> Any:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), Noisy())
    model = MultiTaskModel(trunk, {"a": Task(nn.Linear(6, 1), nn.MSELoss(), "y")}, "x")
    batch = {"x": torch.randn(8, 3), "y": torch.randn(8, 1)}
    return model, batch, OPTIMIZERS[optimizer](model.parameters())


def step(model: MultiTaskModel, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Callable[..., Any]:
    if isinstance(optimizer, torch.optim.LBFGS):

        def closure() -> Tensor:
            Split().forward_backward(model.trunk, model.tasks, batch)
            return torch.zeros(())

        return lambda: optimizer.step(closure)
    return TrainingStep(model.trunk, model.tasks, batch, optimizer, Split())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("trained", [0, 2])
def test_all_of_it_is_put_back(optimizer: str, trained: int) -> None:
    model, batch, chosen = parts(optimizer)
    run = step(model, batch, chosen)
    for _ in range(trained):
        run()
    kept = torch.ones(1, 6)
    model.tasks["a"].head.weight.grad = kept
    before = everything(model, chosen)
    whole = TrainingStep(model.trunk, model.tasks, batch, chosen, Split())
    with without_a_trace(whole):
        assert model.tasks["a"].head.weight.grad is None
        for _ in range(2):
            run()
        assert not all(map(torch.equal, before, everything(model, chosen)))
    after = everything(model, chosen)
    assert len(before) == len(after)
    assert all(map(torch.equal, before, after))
    assert model.tasks["a"].head.weight.grad is kept
    assert torch.equal(kept, torch.ones(1, 6))


def test_training_goes_on_as_if_nothing_had_been() -> None:
    losses = []
    for look in (False, True):
        model, batch, optimizer = parts()
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(1)
        run = TrainingStep(model.trunk, model.tasks, batch, optimizer, Split())
        run()
        if look:
            with without_a_trace(run):
                run()
        for _ in range(3):
            run()
        losses.append(Split().forward_backward(model.trunk, model.tasks, batch)["a"])
    assert torch.equal(*losses)


def test_an_error_inside_is_no_way_out() -> None:
    model, batch, optimizer = parts()
    before = everything(model, optimizer)
    run = TrainingStep(model.trunk, model.tasks, batch, optimizer, Split())

    def fail() -> None:
        with without_a_trace(run):
            run()
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert all(map(torch.equal, before, everything(model, optimizer)))
