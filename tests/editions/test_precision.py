"""Low precision: autocast, 16-bit representations, loss scaling, inf and NaN."""

from __future__ import annotations

import copy
import math
from statistics import mean

import pytest
import torch
from torch import nn

from mtl_accum import Accumulated, Cached, PerTask, Split, SummedLoss, backward_scale
from tests.workloads import Workload, vector

EDITIONS = [
    PerTask(),
    Split(),
    Split(order="reverse"),
    Split(head_chunks=3),
    Cached(chunk_size=3),
    Accumulated(Split(), micro_batches=2),
]
every_edition = pytest.mark.parametrize("edition", EDITIONS, ids=repr)


def plain(seed: int, tasks: int = 8) -> Workload:
    load = vector(torch.float32, tasks, dropout=0.0, trunk_dropout=0.0)
    torch.manual_seed(100 + seed)
    for parameter in load.modules.parameters():
        nn.init.normal_(parameter, std=0.5)
    return load


def autocast(load: Workload, dtype: torch.dtype) -> Workload:
    def inside(function):
        def run(*args):
            with torch.autocast("cpu", dtype):
                return function(*args)

        return run

    tasks = {name: inside(task) for name, task in load.tasks.items()}
    return Workload(inside(load.trunk), tasks, load.batch, load.modules)


def gradient(edition, load: Workload) -> torch.Tensor:
    load.modules.zero_grad()
    edition.forward_backward(load.trunk, load.tasks, load.batch)
    return torch.cat([parameter.grad.double().flatten() for parameter in load.modules.parameters()])


def exact(load: Workload) -> torch.Tensor:
    heads = dict(copy.deepcopy(load.modules[1]).double().items())
    trunk = copy.deepcopy(load.modules[0]).double()
    modules = nn.ModuleList([trunk, nn.ModuleDict(heads)])
    batch = {name: tensor.double() for name, tensor in load.batch.items()}
    return gradient(SummedLoss(), Workload(lambda b: trunk(b["x"]), heads, batch, modules))


@every_edition
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_no_edition_is_less_precise_than_the_summed_loss(edition, dtype):
    ratios = []
    for seed in range(10):
        load = plain(seed)
        reference = exact(load)
        errors = [
            (gradient(which, autocast(load, dtype)) - reference).norm() / reference.norm()
            for which in (edition, SummedLoss())
        ]
        assert 0 < errors[1] < 0.1
        ratios.append(float(errors[0] / errors[1]))
    assert mean(ratios) <= 1.05, ratios


@every_edition
def test_an_outer_autocast_gives_every_pass_its_own_weight_casts(edition):
    """Casts made without a graph, or with one that is gone, must not serve another pass."""
    load = plain(0)
    inside = gradient(edition, autocast(load, torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        outside = gradient(edition, load)
    assert (inside - outside).norm() <= 1e-2 * inside.norm()


def test_sixteen_bit_parameters_in_split():
    ratios = []
    for seed in range(10):
        load = plain(seed)
        reference = exact(load)
        load.modules.to(torch.bfloat16)
        load.batch.update({name: tensor.to(torch.bfloat16) for name, tensor in load.batch.items()})
        errors = [(gradient(which, load) - reference).norm() for which in (Split(), SummedLoss())]
        ratios.append(float(errors[0] / errors[1]))
    assert mean(ratios) <= 1.05, ratios


@every_edition
def test_grad_scaler(edition):
    """Scaled gradients, unscaled losses; the unscaled gradients are the plain ones."""
    load = plain(1)
    expected = gradient(edition, load)
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
def test_inf_or_nan_in_one_task_skips_the_step_for_all(edition, bad):
    load = plain(2)
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
