"""The one context manager that restores a network: what is given, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_accum._state import preserved


def parts() -> tuple[nn.Sequential, torch.optim.Optimizer, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1), torch.randn(5, 3)


def step(model: nn.Sequential, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] *= 0.5
    x.mul_(2)


def values(model: nn.Sequential, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(optimizer.state_dict())
    return [
        *(value.clone() for value in model.state_dict().values()),
        *(torch.as_tensor(leaf).clone() for leaf in leaves if leaf is not None),
        x.clone(),
        torch.get_rng_state(),
    ]


@pytest.mark.parametrize("steps_before", [0, 1])
@pytest.mark.parametrize("error", [False, True])
def test_everything_that_is_given_comes_back(steps_before: int, error: bool) -> None:
    model, optimizer, x = parts()
    for _ in range(steps_before):
        step(model, optimizer, x)
    before = values(model, optimizer, x)
    parameters = list(model.parameters())
    gradients = [parameter.grad for parameter in parameters]
    kept = [gradient if gradient is None else gradient.clone() for gradient in gradients]

    def run() -> None:
        with preserved(model.modules(), gradients=parameters, weights=parameters, optimizer=optimizer, inputs=[x]):
            for parameter in parameters:
                parameter.grad = None
            step(model, optimizer, x)
            step(model, optimizer, x)
            if error:
                raise KeyError

    if error:
        with pytest.raises(KeyError):
            run()
    else:
        run()
    after = values(model, optimizer, x)
    assert len(after) == len(before)
    assert all(map(torch.equal, after, before))
    for parameter, gradient, value in zip(parameters, gradients, kept, strict=True):
        assert parameter.grad is gradient
        assert gradient is None or torch.equal(gradient, value)


def test_nothing_else_comes_back() -> None:
    model, optimizer, x = parts()
    state = torch.get_rng_state()
    weight, mean, given = model[0].weight.detach().clone(), model[1].running_mean.clone(), x.clone()
    with preserved():
        step(model, optimizer, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert model[0].weight.grad is not None
    assert optimizer.state
    assert not torch.equal(model[0].weight, weight)
    assert not torch.equal(model[1].running_mean, mean)
    assert not torch.equal(x, given)


def test_an_input_that_nobody_writes_to_keeps_its_version() -> None:
    x = torch.zeros(3)
    with preserved(inputs=[x]):
        pass
    assert x._version == 0
    with torch.inference_mode():
        fixed = torch.zeros(3)
    with preserved(inputs=[fixed]):
        pass
