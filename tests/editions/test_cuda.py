"""Replays and memory on a CUDA device; skipped where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtl_accum import Accumulated, Cached, Edition, PerTask, Split, SummedLoss, backward_scale, compare
from mtl_accum.testing import Workload, vector
from mtl_accum.verify._difference import gradient_difference
from mtl_accum.verify._oracle import oracle
from tests.measure.networks import parts

pytestmark = pytest.mark.cuda

EDITIONS = [PerTask(), Split(), Cached(chunk_size=3), Accumulated(Split(head_chunks=2), micro_batches=2)]


def on_device() -> Workload:
    load = vector()
    load.modules.cuda()
    load.batch.update({name: tensor.cuda() for name, tensor in load.batch.items()})
    return load


def outcome(edition: Edition, load: Any) -> tuple[Any, Any, Any]:
    load.modules.zero_grad()
    torch.manual_seed(5)
    losses = edition.forward_backward(load.trunk, load.tasks, load.batch)
    return load.gradients(), losses, torch.cuda.get_rng_state()


@pytest.mark.parametrize("edition", EDITIONS, ids=repr)
def test_same_gradient_with_dropout(edition: Edition) -> None:
    load = on_device()
    expected, found = outcome(oracle(edition), load), outcome(edition, load)
    assert gradient_difference(found[0], expected[0]) <= 1e-12
    assert gradient_difference(found[1], expected[1]) <= 1e-12
    assert torch.equal(found[2], expected[2])


@pytest.mark.parametrize("edition", EDITIONS, ids=repr)
def test_grad_scaler(edition: Edition) -> None:
    load = on_device()
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    optimizer = torch.optim.SGD(load.modules.parameters(), lr=0.1)
    with backward_scale(scaler.scale(torch.ones((), device="cuda"))):
        edition.forward_backward(load.trunk, load.tasks, load.batch)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 1024.0


def test_compare() -> None:
    trunk, tasks, batch, _ = parts()
    trunk.cuda()
    tasks.cuda()
    rows = compare(trunk, tasks, {name: tensor.cuda() for name, tensor in batch.items()}, steps=2)
    assert [row.failure for row in rows] == [None] * 3
    peaks = [row.memory[0].peak_bytes for row in rows]
    assert max(peaks[1:]) < peaks[0]
    assert all(row.memory[0].source == "cuda" and row.memory[0].reserved_bytes for row in rows)


def test_the_summed_loss_is_what_it_says() -> None:
    load = on_device()
    gradients, _, _ = outcome(SummedLoss(), load)
    load.modules.zero_grad()
    torch.manual_seed(5)
    z = load.trunk(load.batch)
    sum(task(z, load.batch) for task in load.tasks.values()).backward()
    assert gradient_difference(load.gradients(), gradients) == 0.0
