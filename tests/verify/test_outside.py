"""What lies outside of modules: leaves in closures, inputs, optimizers, generators of numpy and Python."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum import PerTask, Split, check
from mtl_accum.verify import leaves_reached
from tests.verify.networks import Trunk, batch, tasks


def test_all_leaves_that_the_losses_reach_are_compared_and_left_alone() -> None:
    torch.manual_seed(0)
    trunk, head, log_variance = nn.Linear(8, 16), nn.Linear(16, 1), nn.Parameter(torch.zeros(()))
    scales = [torch.ones(1, requires_grad=True)]
    x = torch.randn(8, 8, requires_grad=True)
    parameters = [*trunk.parameters(), *head.parameters(), log_variance]
    optimizers = [torch.optim.SGD(parameters, lr=0.1), torch.optim.LBFGS(scales)]

    def loss(z: Tensor, b: dict[str, Tensor]) -> Tensor:
        return torch.exp(-log_variance) * (scales[0] * head(z)).square().mean() + log_variance

    def times(tensor_of: Callable[..., Any], factor: float | None) -> Any:
        class Wrong:
            def forward_backward(
                self, trunk: Callable[..., Any], tasks: dict[str, Callable[..., Any]], batch: dict[str, Tensor]
            ) -> dict[str, Tensor]:
                losses = Split().forward_backward(trunk, tasks, batch)
                tensor = tensor_of(batch)
                tensor.grad = None if factor is None else tensor.grad * factor
                return losses

        return Wrong()

    outside = {"variance": lambda b: log_variance, "scale": lambda b: scales[0], "input": lambda b: b["x"]}
    editions = {f"{name} {factor}": times(of, factor) for name, of in outside.items() for factor in (100, 1.01, None)}
    log_variance.grad = torch.full((), 3.0)
    parts = (lambda b: trunk(b["x"])), {"t": loss}, {"x": x}
    for optimizer in (None, optimizers, optimizers[0]):
        result = check(*parts, optimizer=optimizer, editions={**editions, "split": Split(), "per_task": PerTask()})
        verdicts = {name: edition.verdict for name, edition in result.editions.items()}
        assert verdicts == dict.fromkeys(editions, "DIFFERS") | {"split": "exact", "per_task": "exact"}
    assert "log_variance" in result.editions["variance 100"].reason
    assert "batch['x']" in result.editions["input 1.01"].reason
    assert result.editions["variance None"].missing == ("log_variance",)
    assert log_variance.grad == 3.0 and x.grad is None and scales[0].grad is None
    assert all(p.grad is None for p in parameters[:-1])
    assert {id(leaf) for leaf in leaves_reached(*parts)} == {id(p) for p in (*parameters, *scales)}


def test_parameters_of_every_optimizer_count_as_trained() -> None:
    spare = nn.Linear(2, 2)
    optimizers = [torch.optim.SGD([spare.weight], lr=0.1), torch.optim.SGD([spare.bias], lr=0.1)]
    result = check(Trunk(), tasks(), batch(), optimizer=optimizers, editions={"split": Split()})
    assert len(result.idle) == 2


def test_random_numbers_of_numpy_and_python_are_put_back() -> None:
    trunk, heads = Trunk(), tasks(lambda out, y: F.mse_loss(out, y) * (random.random() + np.random.rand()))
    data = batch()
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    assert check(trunk, heads, data, editions={"split": Split()}).passed()
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])
