"""A loss whose graph is already gone: the gradient of the plain loss, whatever the function does and the loop wants."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mtl_accum import fold
from tests.editions.folded import D, Net, data


def plain(function: Callable[..., Any], *inputs: Any) -> Tensor:
    return function(*inputs)


def gradients(loss: Callable[..., Any], module: Net, **named: Any) -> list[Tensor]:
    module.zero_grad()
    torch.manual_seed(2)
    loss().backward(**named)
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in module.parameters()]  # type: ignore[misc]


def assert_equal(one: list[Tensor], other: list[Tensor]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.equal(mine, theirs)


def test_the_same_to_the_last_bit() -> None:
    net = Net(dropout=0.5)
    assert_equal(gradients(lambda: net(*data()), net), gradients(lambda: net(*data(), plain), net))


def test_the_graph_is_gone_and_the_trunks_is_not() -> None:
    net, (x, y) = Net(1), data()
    saved: weakref.WeakSet[Any] = weakref.WeakSet()

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor
            saved.add(self)

    def function(z: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda packed: packed.tensor):
            loss = F.mse_loss(net.heads[0](z), y)
        assert saved
        return loss

    loss = fold(function, net.trunk(x))
    gc.collect()
    assert not saved
    assert loss.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_nothing_that_requires_a_gradient() -> None:
    loss = fold(lambda x: x.sum(), torch.ones(3))
    assert loss == 3
    assert not loss.requires_grad


def test_without_gradients_it_is_a_plain_call() -> None:
    net, (x, y) = Net(1), data()
    with torch.no_grad():
        assert fold(lambda a, b: (a, b), x, y) == (x, y)  # type: ignore[return-value]
        assert not net(x, y).requires_grad
    with torch.inference_mode():
        assert net(x, y).is_inference()


# How a loop may go about it.
def test_a_loss_that_is_scaled_and_accumulated() -> None:
    net, (x, y) = Net(), data()

    def steps(call: Callable[..., Any]) -> list[Tensor]:
        net.zero_grad()
        for part in (slice(0, 3), slice(3, 7)):
            (net(x[part], y[part], call) * 0.3).backward()
        return [parameter.grad for parameter in net.parameters()]  # type: ignore[misc]

    for mine, theirs in zip(steps(fold), steps(plain), strict=True):  # the factor comes last, not first
        torch.testing.assert_close(mine, theirs, rtol=1e-14, atol=1e-15)


def test_a_second_backward() -> None:
    net, (x, y) = Net(1), data()
    once = gradients(lambda: net(x, y), net)
    net.zero_grad()
    loss = net(x, y)
    loss.backward(retain_graph=True)
    loss.backward()
    assert_equal([parameter.grad for parameter in net.parameters()], [2 * gradient for gradient in once])  # type: ignore[misc]
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_a_batched_backward() -> None:
    net, (x, y) = Net(2), data()
    z = net.trunk(x)

    def rows(call: Callable[..., Any]) -> tuple[Tensor, ...]:
        losses = torch.stack([call(lambda z, head=head: F.mse_loss(head(z), y), z) for head in net.heads])
        return torch.autograd.grad(losses, [z, *net.heads.parameters()], torch.eye(2, dtype=D), is_grads_batched=True)

    for mine, theirs in zip(rows(fold), rows(plain), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-14, atol=1e-14)


def test_a_checkpointed_trunk() -> None:
    net, (x, y) = Net(), data()

    def loss(call: Callable[..., Any]) -> Tensor:
        z = checkpoint(net.trunk, x, use_reentrant=False)
        return sum(call(lambda z, head=head: F.mse_loss(head(z), y), z) for head in net.heads)

    assert_equal(gradients(lambda: loss(fold), net), gradients(lambda: loss(plain), net))


def test_a_head_under_checkpoint() -> None:
    net, (x, y) = Net(dropout=0.5), data()

    def loss(call: Callable[..., Any]) -> Tensor:
        z = net.trunk(x)
        return sum(
            call(lambda z, head=head: F.mse_loss(checkpoint(head, z, use_reentrant=False), y), z) for head in net.heads
        )

    assert_equal(gradients(lambda: loss(fold), net), gradients(lambda: loss(plain), net))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_anomaly_mode() -> None:
    net, (x, y) = Net(), data()
    with torch.autograd.detect_anomaly():
        mine = gradients(lambda: net(x, y), net)
    assert_equal(mine, gradients(lambda: net(x, y, plain), net))


def test_compiled() -> None:
    net, (x, y) = Net(), data()
    compiled = torch.compile(net, backend="eager")
    assert_equal(gradients(lambda: compiled(x, y), net), gradients(lambda: net(x, y, plain), net))


def test_autocast_around_all() -> None:
    net, (x, y) = Net().float(), [value.float() for value in data()]

    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def head_and_loss(
        head: nn.Module, z: Tensor
    ) -> Tensor:  # in float32: its backward would run in 16 bit under the autocast around the fold
        return F.mse_loss(head(z.float()), y)

    def loss(call: Callable[..., Any]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            z = net.trunk(x)
            return sum(call(lambda z, head=head: head_and_loss(head, z), z) for head in net.heads)

    assert_equal(gradients(lambda: loss(fold), net), gradients(lambda: loss(plain), net))


@pytest.mark.parametrize("scale", [1024.0, torch.tensor(1024.0), lambda: 1024.0], ids=["number", "tensor", "callable"])
def test_small_gradients_in_float16_are_kept(scale: Any) -> None:
    net, (x, y) = Net(2).float(), [value.float() for value in data()]

    def loss(call: Callable[..., Any]) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            z = net.trunk(x)
            return sum(call(lambda z, head=head: 1e-4 * F.mse_loss(head(z), y), z) for head in net.heads) * 1024

    mine = gradients(lambda: loss(lambda function, z: fold(function, z, scale=scale)), net)
    theirs = gradients(lambda: loss(plain), net)
    lost = gradients(lambda: loss(lambda function, z: fold(function, z, scale=1.0)), net)
    difference = max(((a - b).norm() / b.norm()).item() for a, b in zip(mine, theirs, strict=True))
    assert difference < 2e-3
    assert max(((a - b).norm() / b.norm()).item() for a, b in zip(lost, theirs, strict=True)) > 0.01


@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
def test_float16_without_a_scale(inside: bool) -> None:
    net, (x, y) = Net(1).float(), [value.float() for value in data()]
    autocast = torch.autocast("cpu", torch.float16)
    head = autocast(net.heads[0]) if inside else net.heads[0]
    function = lambda z: F.mse_loss(head(z).float(), y)
    with pytest.raises(RuntimeError, match="scale= for values in float16.*scaler.get_scale"):
        if inside:
            fold(function, net.trunk(x))
        else:
            autocast(lambda: fold(function, net.trunk(x)))()


def test_hooks_on_parameters_run_once_in_the_backward() -> None:
    net, (x, y) = Net(), data()
    seen = []
    handle = net.heads[0][0].weight.register_hook(lambda gradient: seen.append(gradient.clone()) or gradient * 10)
    loss = net(x, y) * 0.5
    assert not seen
    loss.backward()
    mine = net.heads[0][0].weight.grad.clone()
    theirs = gradients(lambda: net(x, y, plain) * 0.5, net)
    assert len(seen) == 2
    assert torch.equal(*seen)
    assert_equal([mine], [theirs[2]])
    handle.remove()
    assert_equal(gradients(lambda: net(x, y), net), gradients(lambda: net(x, y, plain), net))
    assert len(seen) == 2
