"""`loss` and `losses`: what a loop that runs the backward itself is handed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import (
    Accumulated,
    AsLoss,
    Cached,
    Checkpointed,
    MultiTaskModel,
    Offloaded,
    OverBatches,
    PerTask,
    Split,
    SummedLoss,
    Task,
    backward_scale,
    fold,
)
from mtl_accum.editions import Schedule
from mtl_accum.testing import vector
from mtl_accum.verify._difference import gradient_difference

EDITIONS = [
    SummedLoss(),
    Split(),
    Split(head_chunks=3),
    Cached(3),
    Accumulated(Split(), 2),
    Accumulated(SummedLoss(), 3),
    Checkpointed(Split()),
    Offloaded(Split(heads_per_graph=2)),
]
every = pytest.mark.parametrize("edition", EDITIONS, ids=repr)


def still() -> Any:
    """A network without random numbers, and the gradient of a weighted sum of its losses."""
    return vector(dropout=0.0, trunk_dropout=0.0)


def plain(
    load: Any, weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    load.modules.zero_grad()
    z = load.trunk(load.batch)
    losses = {name: task(z, load.batch) for name, task in load.tasks.items()}
    sum(weight * loss for weight, loss in zip(weights, losses.values(), strict=True)).backward()
    gradients = load.gradients()
    load.modules.zero_grad()
    return losses, gradients


@every
def test_a_total_and_the_losses(edition: Schedule) -> None:
    load = still()
    expected, gradients = plain(load)
    total, losses = edition.loss(load.trunk, load.tasks, load.batch)
    assert total.dim() == 0
    assert list(losses) == list(expected)
    assert not any(loss.requires_grad for loss in losses.values())
    torch.testing.assert_close(total, sum(expected.values()), rtol=1e-14, atol=0)
    assert all(parameter.grad is None for parameter in load.modules.parameters())
    for factor in (0.25, 0.75):  # two accumulated steps
        total, _ = edition.loss(load.trunk, load.tasks, load.batch)
        (total * factor).backward()
    assert gradient_difference(load.gradients(), gradients) < 1e-14


@every
def test_each_loss_has_its_own_gradient(edition: Schedule) -> None:
    load = still()
    _, gradients = plain(load, (0.3, 2.0, 0.5))
    losses = edition.losses(load.trunk, load.tasks, load.batch)
    sum(weight * loss for weight, loss in zip((0.3, 2.0, 0.5), losses.values(), strict=True)).backward()
    assert gradient_difference(load.gradients(), gradients) < 1e-14
    _, gradients = plain(load, (0.0, 1.0, 0.0))
    edition.losses(load.trunk, load.tasks, load.batch)["t1"].backward()
    mine = load.gradients()
    assert all(gradient is None for name, gradient in mine.items() if ".t0." in name or ".t2." in name)
    assert gradient_difference({name: g for name, g in mine.items() if g is not None}, {
        name: gradients[name] for name, g in mine.items() if g is not None
    }) < 1e-14  # fmt: skip


@every
def test_without_gradients_it_is_an_evaluation(edition: Schedule) -> None:
    load = still()
    expected, _ = plain(load)
    with torch.no_grad():
        total, losses = edition.loss(load.trunk, load.tasks, load.batch)
        separate = edition.losses(load.trunk, load.tasks, load.batch)
    assert not total.requires_grad
    torch.testing.assert_close(total, sum(expected.values()).detach(), rtol=1e-14, atol=0)
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss.detach(), rtol=1e-14, atol=0)
        assert not separate[name].requires_grad
        torch.testing.assert_close(separate[name], loss.detach(), rtol=1e-14, atol=0)


def model(*targets: Any) -> Any:
    torch.manual_seed(0)
    tasks = {name: Task(nn.Linear(4, 2), nn.MSELoss(), name) for name in targets}
    return MultiTaskModel(nn.Linear(3, 4), tasks, "x").double()


@every
def test_absent_tasks(edition: Schedule) -> None:
    net = model("a", "b")
    batch = {"x": torch.randn(6, 3).double(), "a": torch.randn(6, 2).double()}
    total, losses = edition.loss(net.trunk, net.tasks, batch)
    total.backward()
    assert losses["b"] == 0
    assert all(parameter.grad is None for parameter in net.tasks["b"].parameters())
    assert all(parameter.grad is not None for parameter in net.trunk.parameters())
    net.zero_grad()
    edition.losses(net.trunk, net.tasks, batch)["b"].backward()
    assert all(parameter.grad is None for parameter in net.parameters())


@every
def test_all_tasks_absent(edition: Schedule) -> None:
    net = model("a", "b")
    with pytest.warns(UserWarning, match="no task is present"):
        total, losses = edition.loss(net.trunk, net.tasks, {"x": torch.randn(6, 3).double()})
    (total / 2).backward()
    assert list(losses) == ["a", "b"]
    assert all(parameter.grad is None for parameter in net.parameters())


class Calls:
    """A trunk that counts its passes."""

    def __init__(self, trunk: Callable[..., Any]) -> None:
        self.trunk, self.passes = trunk, 0

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        self.passes += 1
        return self.trunk(batch)


@pytest.mark.parametrize(
    ("edition", "forward", "backward"),
    [(SummedLoss(), 1, 0), (Split(), 1, 0), (Cached(3), 3, 3), (Accumulated(Split(), 2), 2, 2),
     (Accumulated(Cached(2), 2), 4, 4), (Checkpointed(Split()), 1, 1)],
    ids=repr,
)  # fmt: skip
def test_passes_of_the_trunk(edition: Schedule, forward: int, backward: int) -> None:
    load = still()
    trunk = Calls(load.trunk)
    total, _ = edition.loss(trunk, load.tasks, load.batch)
    assert trunk.passes == forward
    total.backward()
    assert trunk.passes == forward + backward


def test_a_sum_in_float32_where_the_representation_has_16_bit() -> None:
    torch.manual_seed(0)
    z = torch.randn(4, 6).bfloat16().requires_grad_()
    heads = [nn.Linear(6, 3, bias=False).bfloat16() for _ in range(16)]
    tasks = {str(i): lambda z, _, head=head: head(z).float().pow(2).mean() for i, head in enumerate(heads)}
    each = [torch.autograd.grad(task(z, None), z)[0].float() for task in tasks.values()]
    total, _ = Split().loss(lambda _: z, tasks, None)
    total.backward()
    assert torch.equal(z.grad, sum(each).bfloat16())
    plain = torch.autograd.grad(sum(task(z, None) for task in tasks.values()), z)[0]
    assert not torch.equal(plain, z.grad)


@pytest.mark.parametrize("scale", [2.0**14, lambda: torch.tensor(2.0**14)], ids=["number", "callable"])
def test_float16_with_a_scaler(scale: Any) -> None:
    torch.manual_seed(0)
    net = model("a", "b").float()
    half = torch.autocast("cpu", torch.float16)
    trunk = half(net.trunk.forward)
    tasks = {name: half(lambda z, b, task=task: task(z, b) * 1e-3) for name, task in net.tasks.items()}
    batch = {"x": torch.randn(6, 3), "a": torch.randn(6, 2), "b": torch.randn(6, 2)}

    def gradients(edition: Schedule, **named: Any) -> Any:
        net.zero_grad()
        total, _ = edition.loss(trunk, tasks, batch, **named)
        (total * 2**14).backward()
        return {name: parameter.grad for name, parameter in net.named_parameters()}

    expected = gradients(SummedLoss())
    assert gradient_difference(gradients(Split(), scale=scale), expected) < 2e-3
    with pytest.raises(RuntimeError, match="task 'a': expected scale= for values in float16"):
        gradients(Split())


def test_fold_one_by_one_is_the_same() -> None:
    load = vector()
    torch.manual_seed(3)
    z = load.trunk(load.batch)
    sum(fold(task, z, load.batch) for task in load.tasks.values()).backward()
    mine = load.gradients()
    load.modules.zero_grad()
    torch.manual_seed(3)
    SummedLoss().forward_backward(load.trunk, load.tasks, load.batch)
    assert gradient_difference(mine, load.gradients()) == 0


def test_features_that_the_trunk_computed_besides() -> None:
    load = still()
    kept = []

    def trunk(batch: dict[str, Tensor]) -> Tensor:
        kept.append(torch.tanh(load.trunk(batch)))
        return kept[-1] * 2

    tasks = {"t": lambda z, b: (z + kept[-1]).pow(2).mean()}
    with pytest.raises(RuntimeError, match="task 't': expected to read the representation alone.*part of the repr"):
        Split().loss(trunk, tasks, load.batch)


class Odd:
    """A user's edition."""

    def forward_backward(self, trunk: Any, tasks: Any, batch: Any) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda *parts: PerTask().loss(*parts), r"PerTask has no loss: .*use Split\(\)"),
        (lambda *parts: Checkpointed(PerTask()).losses(*parts), r"PerTask has no loss: .*use Split\(\)"),
        (lambda *parts: OverBatches(Split()).loss(*parts), "OverBatches has no loss: .*let the trainer accumulate"),
        (lambda *parts: Accumulated(Odd(), 2).loss(*parts), r"Odd has no loss, only forward_backward.*Split\(\)"),
        (lambda *parts: AsLoss(PerTask()), "edition must have a loss, found PerTask"),
        (lambda *parts: AsLoss(Odd()), "edition must have a loss, found <"),
    ],
)
def test_editions_without_a_loss(call: Callable[..., Any], message: str) -> None:
    load = still()
    with pytest.raises(TypeError, match=message):
        call(load.trunk, load.tasks, load.batch)


def test_a_scale_that_only_an_edition_would_apply() -> None:
    load = still()
    with backward_scale(2.0), pytest.raises(RuntimeError, match="no backward_scale around it.*multiply what loss"):
        Split().loss(load.trunk, load.tasks, load.batch)
    _, expected = plain(load, (2.0, 2.0, 2.0))
    with backward_scale(2.0):
        AsLoss(Split()).forward_backward(load.trunk, load.tasks, load.batch)
    assert gradient_difference(load.gradients(), expected) < 1e-14
