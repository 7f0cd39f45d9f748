"""What happens between a loss and its backward: as under the plain loss, or an error; never another gradient."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import Accumulated, Cached, Checkpointed, Edition, Offloaded, Split
from mtl_accum.editions import ReplayError
from mtl_accum.verify._difference import gradient_difference

SAVES = [Split(), Offloaded(Split())]
RUNS_AGAIN = [Cached(2), Accumulated(Split(), 3), Accumulated(Split(), 1), Checkpointed(Split())]
every = pytest.mark.parametrize("edition", [*SAVES, *RUNS_AGAIN], ids=repr)


class Net:
    """A trunk in two layers, one head, and the plain gradient of a batch."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
        self.head = nn.Linear(4, 1).double()
        self.tasks = {"a": lambda z, _: self.head(z).pow(2).mean()}
        self.modules = nn.ModuleList([self.trunk, self.head])

    def run(self, batch: dict[str, Tensor]) -> Tensor | None:
        return self.trunk(batch["x"])

    def gradients(self) -> dict[str, Tensor]:
        gradients = {name: parameter.grad for name, parameter in self.modules.named_parameters()}
        self.modules.zero_grad(set_to_none=True)
        return gradients  # type: ignore[return-value]

    def plain(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.tasks["a"](self.run(batch), batch).backward()
        return self.gradients()


def batch() -> dict[str, Tensor]:
    return {"x": torch.randn(6, 4).double()}


@torch.no_grad()
def optimizer_step(net: Net, batch: dict[str, Tensor]) -> None:
    net.trunk[2].weight.mul_(2)


@torch.no_grad()
def batch_written_to(net: Net, batch: dict[str, Tensor]) -> None:
    batch["x"].normal_()


def other_weights(net: Net, batch: dict[str, Tensor]) -> None:
    net.trunk[2].weight.data = net.trunk[2].weight.data * 2  # type: ignore[assignment]


def another_parameter(net: Net, batch: dict[str, Tensor]) -> None:
    net.trunk[2].weight = nn.Parameter(net.trunk[2].weight.detach() * 2)


def another_tensor_in_the_batch(net: Net, batch: dict[str, Tensor]) -> None:
    batch["x"] = torch.zeros(6, 4).double()


def an_empty_batch(net: Net, batch: dict[str, Tensor]) -> None:
    batch.clear()


def another_loss(net: Net, _: dict[str, Tensor]) -> None:
    Cached(2).loss(net.run, net.tasks, batch())


def steps(edition: Any, change: Callable[..., Any], count: int = 5) -> list[Exception | float]:
    """Return for each step the difference from the plain gradient, or the error."""
    results = []
    for _ in range(count):  # later steps are not compared with the first pass any more
        net, one = Net(), batch()
        for _ in range(3):
            edition.loss(net.run, net.tasks, batch())[0].backward()
        net.gradients()
        expected = net.plain(one)
        total, _ = edition.loss(net.run, net.tasks, one)
        weight = net.trunk[2].weight
        change(net, one)
        try:
            total.backward()
        except RuntimeError as error:
            results.append(error)
            continue
        if net.trunk[2].weight is not weight:  # where the gradient of the plain loss would be
            net.trunk[2].weight = weight
        results.append(gradient_difference(net.gradients(), expected))
    return results  # type: ignore[return-value]


@every
@pytest.mark.parametrize("change", [optimizer_step, batch_written_to])
def test_writes_are_an_error(edition: Edition, change: Callable[..., Any]) -> None:
    for error in steps(edition, change):
        assert isinstance(error, RuntimeError)
        words = "modified by an inplace operation|weights changed between|a tensor of the batch was written to"
        assert re.search(words, str(error))


@every
@pytest.mark.parametrize("change", [other_weights, another_parameter])
def test_swapped_weights_are_right_or_an_error(edition: Edition, change: Callable[..., Any]) -> None:
    for result in steps(edition, change):
        if edition in RUNS_AGAIN:
            assert isinstance(result, ReplayError)
            assert "weights changed between the loss and its backward" in str(result)
            assert "Linear.weight" in str(result)
        else:
            assert result < 1e-14


@every
@pytest.mark.parametrize("change", [another_tensor_in_the_batch, an_empty_batch, another_loss])
def test_what_the_loss_does_not_need_any_more_is_right(edition: Edition, change: Callable[..., Any]) -> None:
    assert max(steps(edition, change)) < 1e-14


@pytest.mark.parametrize("form", ["loss", "forward_backward"])
def test_a_trunk_that_writes_into_what_it_has_saved(form: str) -> None:
    net = Net()

    def trunk(batch: dict[str, Tensor]) -> Tensor:
        z = net.trunk(batch["x"]).sigmoid()
        return z.mul_(2)

    with pytest.raises(RuntimeError, match="Offloaded: one of the variables.*modified by an inplace operation"):
        total = getattr(Offloaded(Split()), form)(trunk, net.tasks, batch())
        total[0].backward()


class Routed(nn.Module):
    """A trunk with a loss of its own, kept in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.router, self.aux = nn.Linear(4, 4), nn.Linear(4, 3), None

    def forward(self, x: Tensor) -> Tensor:
        self.aux = self.router(x).pow(2).mean()
        return self.body(x)


def test_a_loss_of_the_trunks_own() -> None:
    torch.manual_seed(0)
    trunk, x = Routed().double(), batch()["x"]
    tasks = {"a": lambda z, _: z.pow(2).mean(), "aux": lambda *_: trunk.aux}
    total = tasks["a"](trunk(x), x) + trunk.aux
    total.backward()
    expected = {name: parameter.grad for name, parameter in trunk.named_parameters()}
    trunk.zero_grad(set_to_none=True)
    Split().loss(trunk, tasks, x)[0].backward()
    mine = {name: parameter.grad for name, parameter in trunk.named_parameters()}
    assert gradient_difference(mine, expected) < 1e-14
    for edition in (Cached(2), Cached(2, head_chunks=2)):  # the last chunk's is there alone
        with pytest.raises(RuntimeError, match="task 'aux': expected to read the representation alone"):
            edition.loss(trunk, tasks, x)
    both = {"a": lambda z, _: z.pow(2).mean() + trunk.aux}
    with pytest.raises(RuntimeError, match="task 'a': expected to read the representation alone"):
        Cached(2).losses(trunk, both, x)


def test_heads_that_read_a_batch_with_gradients() -> None:
    net, one = Net(), batch()
    one["x"].requires_grad_()
    tasks = {"a": lambda z, b: (net.head(z) * b["x"].sum(1, keepdim=True)).pow(2).mean()}
    tasks["a"](net.run(one), one).backward()
    expected = net.gradients() | {"x": one["x"].grad}
    for edition in (Split(), Accumulated(Split(), 3), Cached(2), Split(head_chunks=2)):
        one["x"].grad = None
        edition.loss(net.run, tasks, one)[0].backward()
        assert gradient_difference(net.gradients() | {"x": one["x"].grad}, expected) < 1e-14
