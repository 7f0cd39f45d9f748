"""Low precision: autocast, 16-bit representations, loss scaling, inf and NaN."""

from __future__ import annotations

import math
from statistics import mean
from typing import Any

import pytest
import torch

from mtl_accum import Accumulated, Cached, Edition, PerTask, Split, SummedLoss, backward_scale
from mtl_accum.testing import flat_gradient, float64_gradient, under_autocast, wide_weights

EDITIONS = [
    PerTask(),
    Split(),
    Split(order="reverse"),
    Split(head_chunks=3),
    Cached(chunk_size=3),
    Accumulated(Split(), micro_batches=2),
]
every_edition = pytest.mark.parametrize("edition", EDITIONS, ids=repr)


@every_edition
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_no_edition_is_less_precise_than_the_summed_loss(edition: Edition, dtype: torch.dtype) -> None:
    ratios = []
    for seed in range(10):
        load = wide_weights(seed)
        reference = float64_gradient(load)
        errors = [
            (flat_gradient(which, under_autocast(load, dtype)) - reference).norm() / reference.norm()
            for which in (edition, SummedLoss())
        ]
        assert 0 < errors[1] < 0.1
        ratios.append(float(errors[0] / errors[1]))
    assert mean(ratios) <= 1.05, ratios


@every_edition
def test_an_outer_autocast_gives_every_pass_its_own_weight_casts(edition: Edition) -> None:
    """Casts made without a graph, or with one that is gone, must not serve another pass."""
    load = wide_weights(0)
    inside = flat_gradient(edition, under_autocast(load, torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        outside = flat_gradient(edition, load)
    assert (inside - outside).norm() <= 1e-2 * inside.norm()


def test_sixteen_bit_parameters_in_split() -> None:
    ratios = []
    for seed in range(10):
        load = wide_weights(seed)
        reference = float64_gradient(load)
        load.modules.to(torch.bfloat16)
        load.batch.update({name: tensor.to(torch.bfloat16) for name, tensor in load.batch.items()})
        errors = [(flat_gradient(which, load) - reference).norm() for which in (Split(), SummedLoss())]
        ratios.append(float(errors[0] / errors[1]))
    assert mean(ratios) <= 1.05, ratios


@every_edition
def test_grad_scaler(edition: Edition) -> None:
    """Scaled gradients, unscaled losses; the unscaled gradients are the plain ones."""
    load = wide_weights(1)
    expected = flat_gradient(edition, load)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(load.modules.parameters(), lr=0.1)
    plain_losses = edition.forward_backward(load.trunk, load.tasks, load.batch)
    optimizer.zero_grad()
    with backward_scale(scaler.scale(torch.ones(()))):
        losses = edition.forward_backward(load.trunk, load.tasks, load.batch)
    assert all(torch.equal(losses[name], loss) for name, loss in plain_losses.items())
    scaler.unscale_(optimizer)
    found = torch.cat([parameter.grad.double().flatten() for parameter in load.modules.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@every_edition
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_inf_or_nan_in_one_task_skips_the_step_for_all(edition: Edition, bad: Any) -> None:
    load = wide_weights(2)
    tasks = {**load.tasks, "bad": lambda z, b: (z * bad).mean()}
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(load.modules.parameters(), lr=0.1)
    before = [parameter.clone() for parameter in load.modules.parameters()]
    with backward_scale(scaler.scale(torch.ones(()))):
        edition.forward_backward(load.trunk, tasks, load.batch)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert all(torch.equal(a, b) for a, b in zip(before, load.modules.parameters(), strict=True))
