"""Backward passes in the field: a second one, lazy modules, ambient autocast, derivatives of the input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mtl_accum import Accumulated, Cached, Checkpointed, Edition, Offloaded, PerTask, Split, SummedLoss
from mtl_accum.verify._difference import gradient_difference
from tests.editions.replayed import gradients, lambda_of, setting


def test_a_second_backward_through_a_checkpointed_block() -> None:
    """As torch's own checkpoint has it: gradient penalties, GradNorm."""
    net, _, batch = setting()

    def task(z: Tensor, b: dict[str, Tensor]) -> Tensor:
        loss = z.square().mean()
        torch.autograd.grad(loss, net.first.weight, retain_graph=True)
        return loss

    expected = gradients(SummedLoss(), lambda_of(net), {"t": task}, batch)
    assert gradient_difference(gradients(Checkpointed(SummedLoss()), net, {"t": task}, batch), expected) <= 1e-12
    task(checkpoint(net, batch, use_reentrant=False), batch).backward()


@pytest.mark.parametrize("edition", [Offloaded(Split()), Offloaded(Checkpointed(Split()))], ids=repr)
def test_lazy_modules_are_offloaded_too(edition: Edition) -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(3))
    edition.forward_backward(trunk, {"t": lambda z, b: z.square().mean()}, torch.randn(4, 6))
    assert trunk[0].weight.grad.abs().sum() > 0


def test_autocast_around_the_whole_call_is_that_of_the_forward_alone() -> None:
    """The head's loss in float32 has a backward of its own, which must not run under bfloat16."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.square().mean()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return g * 2 * (x @ torch.eye(x.shape[1])) / x.numel()  # a matrix product, which autocast would round

    def task(z: Tensor, batch: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return Square.apply(z.float())

    trunk, x = nn.Linear(5, 6), torch.randn(7, 5)
    with torch.autocast("cpu", torch.bfloat16):
        loss = task(trunk(x), x)
    loss.backward()
    expected, trunk.weight.grad = trunk.weight.grad, None
    for edition in (SummedLoss(), Split(), PerTask(), Cached(100), Checkpointed(Split())):
        trunk.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            edition.forward_backward(trunk, {"t": task}, x)
        torch.testing.assert_close(trunk.weight.grad, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("edition", [Split(), Cached(100), Accumulated(Split(), 2), Split(head_chunks=2)], ids=repr)
@pytest.mark.parametrize("allow", [False, True])
def test_a_loss_on_the_inputs_derivative_is_refused_in_words(allow: bool, edition: Edition) -> None:
    trunk, head = nn.Linear(2, 6).double(), nn.Linear(6, 1).double()
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)

    def residual(z: Tensor, batch: Tensor) -> Tensor | None:
        u = head(z)
        (slope,) = torch.autograd.grad(u.sum(), batch, create_graph=True, allow_unused=allow)
        return (0 if slope is None else slope.sum()) + u.square().mean()

    message = r"task 'pde': it differentiates with respect to what lies behind the representation .*PerTask\(\)"
    with pytest.raises(RuntimeError, match=message):
        edition.forward_backward(trunk, {"pde": residual}, x)
    trunk.weight.grad = None
    PerTask().forward_backward(trunk, {"pde": residual}, x)
    expected, trunk.weight.grad = trunk.weight.grad, None
    residual(trunk(x), x).backward()
    torch.testing.assert_close(trunk.weight.grad, expected, rtol=1e-12, atol=0)


def test_an_input_that_requires_a_gradient_gets_it() -> None:
    net, tasks, batch = setting()
    gradients_of = []
    for edition in (SummedLoss(), Split(), PerTask(), Cached(3), Accumulated(Split(), 2)):
        x = batch["x"].clone().requires_grad_()
        edition.forward_backward(net, tasks, batch | {"x": x})
        gradients_of.append(x.grad)
    for other in gradients_of[1:]:
        torch.testing.assert_close(other, gradients_of[0], rtol=1e-10, atol=1e-14)


def jagged() -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    layer, head = nn.Linear(4, 8).double(), nn.Linear(8, 1).double()
    rows = [torch.randn(n, 4, dtype=torch.float64) for n in (3, 5)]
    return layer, head, torch.nested.nested_tensor(rows, layout=torch.jagged)


@pytest.mark.parametrize("edition", [Split(), PerTask(), Checkpointed(Split())], ids=repr)
def test_a_jagged_representation_is_whole(edition: Edition) -> None:
    layer, head, batch = jagged()
    tasks = {name: lambda z, b: head(z).values().square().mean() for name in "abc"}
    SummedLoss().forward_backward(layer, tasks, batch)
    expected, layer.weight.grad = layer.weight.grad, None
    edition.forward_backward(layer, tasks, batch)
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("edition", [Split(head_chunks=2), Cached(1), Accumulated(Split(), 2)], ids=repr)
def test_a_jagged_tensor_in_pieces_is_refused(edition: Edition) -> None:
    layer, head, batch = jagged()
    with pytest.raises(ValueError, match=r"nested \(jagged\) one, which torch cannot slice. Pad it"):
        edition.forward_backward(layer, {"t": lambda z, b: head(z).values().mean()}, batch)
