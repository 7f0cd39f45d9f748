"""Accumulation over a loader's batches: the gradient of one large batch, whatever the sizes and the targets."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import (
    Accumulated,
    Cached,
    Edition,
    MultiTaskModel,
    OverBatches,
    PerTask,
    Split,
    SummedLoss,
    Task,
    count_labels,
)
from mtl_accum.training.loop import TrainConfig, Training

CPU = torch.device("cpu")


def network() -> Any:
    torch.manual_seed(0)
    tasks = {
        "dense": Task(nn.Linear(5, 1), nn.MSELoss(), "y", weight=0.7),
        "tag": Task(nn.Linear(5, 3), nn.CrossEntropyLoss(ignore_index=-100), "tag", count=count_labels("tag")),
        "rare": Task(nn.Linear(5, 1), nn.MSELoss(), "rare"),
    }
    return MultiTaskModel(nn.Sequential(nn.Linear(4, 5), nn.Tanh()), tasks, "x").double()


def whole(samples: int = 13) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    tag = torch.randint(0, 3, (samples,), generator=generator)
    tag[1:6] = -100
    return {"x": x, "y": x.sum(1, keepdim=True), "tag": tag, "rare": x[:, :1]}


def cut(batch: dict[str, Tensor], sizes: list[int]) -> list[dict[str, Tensor]]:
    start, found = 0, []
    for size in sizes:
        found.append({name: value[start : start + size] for name, value in batch.items()})
        start += size
    return found


@pytest.mark.parametrize("edition", [SummedLoss(), PerTask(), Split(), Cached(2), Accumulated(Split(), 2)], ids=repr)
@pytest.mark.parametrize("sizes", [[13], [5, 5, 3], [1, 5, 7], [2, 4, 4, 3]], ids=str)
def test_equals_the_batch_in_one_piece(edition: Edition, sizes: list[int]) -> None:
    expected, found = network(), network()
    batch = whole()
    reference = SummedLoss().forward_backward(expected.trunk, expected.tasks, batch)
    losses = OverBatches(edition).forward_backward(found.trunk, found.tasks, cut(batch, sizes))
    assert list(losses) == list(reference)
    for name in reference:
        torch.testing.assert_close(losses[name], reference[name], rtol=1e-12, atol=0)
    for (name, one), other in zip(expected.named_parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-10, atol=1e-13, msg=name)


def test_a_task_without_targets_in_some_batches_or_in_all() -> None:
    batch = whole()
    batches = cut(batch, [5, 5, 3])
    batches[1].pop("rare")
    expected, found = network(), network()
    rare = torch.cat([batches[0]["rare"], batches[2]["rare"]])
    x = torch.cat([batches[0]["x"], batches[2]["x"]])
    (0.0 + nn.functional.mse_loss(expected.tasks["rare"].head(expected.trunk({"x": x})), rare)).backward()
    losses = OverBatches(Split()).forward_backward(found.trunk, found.tasks, batches)
    torch.testing.assert_close(
        found.tasks["rare"].head.weight.grad, expected.tasks["rare"].head.weight.grad, rtol=1e-10, atol=0
    )
    assert losses["rare"] > 0
    for one in batches:
        one.pop("rare", None)
    found = network()
    assert OverBatches(Split()).forward_backward(found.trunk, found.tasks, batches)["rare"] == 0
    assert found.tasks["rare"].head.weight.grad is None


def test_functions_without_a_count_weigh_their_samples() -> None:
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    batch = whole()
    tasks = {"a": lambda z, batch: (z - batch["y"].squeeze(1)).square().mean()}
    OverBatches(Split()).forward_backward(
        lambda b: b["x"] * weight @ torch.ones(4).double(), tasks, cut(batch, [6, 6, 1])
    )
    found, weight.grad = weight.grad, None
    SummedLoss().forward_backward(lambda b: b["x"] * weight @ torch.ones(4).double(), tasks, batch)
    torch.testing.assert_close(found, weight.grad, rtol=1e-12, atol=0)


def test_the_tail_of_an_epoch_counts_as_what_it_is() -> None:
    """5 batches in windows of 2: the last window is one short batch, and the step is its mean."""
    sizes = [3, 3, 3, 3, 1]
    small, large = network(), network()
    runs = []
    for net, batches, accumulate in ((small, cut(whole(), sizes), 2), (large, cut(whole(), [6, 6, 1]), 1)):
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        loop = TrainConfig(epochs=3, accumulate=accumulate)
        runs.append(Training(net, batches, [Split()], optimizer, loop, device=CPU))
    losses = [run.run() for run in runs]
    assert [run.position.step for run in runs] == [9, 9]
    for name, history in losses[1].items():
        assert losses[0][name] == pytest.approx(history, rel=1e-10)
    for one, other in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_the_naive_division_would_be_wrong() -> None:
    """What this is about: the mean of the batches' means is another gradient."""
    batch, net = whole(), network()
    naive, right = copy.deepcopy(net), copy.deepcopy(net)
    batches = cut(batch, [5, 5, 3])
    for piece in batches:
        (sum(task(naive.trunk(piece), piece) for task in naive.tasks.values()) / 3).backward()
    OverBatches(SummedLoss()).forward_backward(right.trunk, right.tasks, batches)
    assert not torch.allclose(naive.tasks["dense"].head.weight.grad, right.tasks["dense"].head.weight.grad, rtol=1e-2)
