"""Whatever a folded function reads, the gradient is the plain one's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_accum import fold
from tests.editions.folded import D, Net, data


def plain(function: Callable[..., Any], *inputs: Any) -> Tensor:
    return function(*inputs)


# Each as (module, loss of a call).
def _containers(call: Callable[..., Any]) -> tuple[Net, Tensor]:
    net, (x, y) = Net(1), data()
    z = net.trunk(x)
    tree = {"z": [z, z], "y": (y, None, "name", 3), "net": net}
    return net, call(lambda t, scale: F.mse_loss(net.heads[0](t["z"][0] * t["z"][1]), t["y"][0]) * scale, tree, 2.0)


def _raw_tensor(call: Any) -> tuple[Any, Any]:
    net, (x, y) = Net(1), data()
    raw = net.heads[0][0].weight
    return net, call(lambda z: F.mse_loss(z @ raw.T[:, :2], y), net.trunk(x))


def _parameter_as_input_and_in_the_closure(call: Any) -> tuple[Any, Any]:
    net, (x, y) = Net(1), data()
    bias = net.heads[0][2].bias
    return net, call(lambda z, b: F.mse_loss(net.heads[0](z) + b, y), net.trunk(x), bias)


def _parametrization(call: Any) -> tuple[Any, Any]:
    net, (x, y) = Net(1), data()
    torch.manual_seed(3)
    nn.utils.parametrizations.weight_norm(net.heads[0][0])
    return net, call(lambda z: F.mse_loss(net.heads[0](z), y), net.trunk(x))


def _hypernetwork(call: Callable[..., Any]) -> tuple[Net, Tensor]:
    net, (x, y) = Net(1), data()
    weight = net.heads[0](net.trunk(x[:5] * 2)).T  # (2, 5), with a graph outside, used once
    return net, call(lambda z: F.mse_loss(F.linear(z, weight), y), net.trunk(x))


def _sum_of_two_leaves(call: Any) -> tuple[Any, Any]:  # autograd.grad returns one tensor for both
    net, (x, y) = Net(2), data()
    first, second = net.heads[0][2].bias, net.heads[1][2].bias
    z = net.trunk(x)
    one = call(lambda z: F.mse_loss((first + second) + z[:, :2], y), z)
    return net, one + call(lambda z: (first * 3 + second + z[:, :2]).pow(2).sum(), z)


def _expanded(call: Any) -> tuple[Any, Any]:  # autograd.grad returns a tensor of one number
    net, (x, _) = Net(1), data()
    z = net.trunk(x)
    return net, call(lambda z: z.sum(), z) + call(lambda z: z.sum() * 2, z) + call(lambda z: z.pow(2).sum(), z)


def _two_tensors_fused(call: Any) -> tuple[Any, Any]:
    net, (x, _) = Net(1), data()
    z = net.trunk(x)
    one, other = z[:, :2], z[:, 2:4]
    return net, call(lambda a, b: (a + b).sum() + (a * b).sum(), one, other) + call(
        lambda a, b: (a - b).sum(), one, other
    )


def _no_parameters(call: Callable[..., Any]) -> tuple[Net, Tensor]:
    net, (x, _) = Net(1), data()
    return net, call(lambda z: z.pow(2).mean(), net.trunk(x))


def _frozen_head(call: Any) -> tuple[Any, Any]:
    net, (x, y) = Net(1), data()
    net.heads.requires_grad_(False)
    return net, call(lambda z: F.mse_loss(net.heads[0](z), y), net.trunk(x))


def _frozen_trunk(call: Any) -> tuple[Any, Any]:
    net, (x, y) = Net(1), data()
    net.trunk.requires_grad_(False)
    return net, call(lambda z: F.mse_loss(net.heads[0](z), y), net.trunk(x))


def _the_input_itself(call: Any) -> tuple[Any, Any]:
    net, (x, _) = Net(1), data()
    return net, call(lambda z: z, net.trunk(x).mean())


def _the_trunk_inside(call: Callable[..., Any]) -> tuple[Net, Tensor]:  # nothing is cut: all leaves are behind the loss
    net, (x, y) = Net(1), data()
    return net, call(lambda: F.mse_loss(net.heads[0](net.trunk(x)), y))


def _sparse(call: Any) -> tuple[Any, Any]:
    net = nn.Embedding(9, 2, sparse=True).to(D)
    return net, call(lambda y: F.mse_loss(net(torch.tensor([1, 4, 1])), y), data(3)[1])


def _sparse_and_dense(call: Any) -> tuple[Any, Any]:
    net = nn.Embedding(9, 2, sparse=True).to(D)
    y = data(3)[1]
    return net, call(lambda y: F.mse_loss(net(torch.tensor([1, 4, 1])), y) + net.weight.pow(2).mean(), y)


class Kept(torch.autograd.Function):
    """A function of somebody's that keeps a tensor under the name that autograd uses for leaves."""

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any) -> Any:
        ctx.variable = w
        return x * w

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, Any]:
        return gradient * ctx.variable, None


def _a_function_with_a_variable(call: Any) -> tuple[Any, Any]:
    net, (x, _) = Net(1), data()
    return net, call(lambda z: Kept.apply(net.heads[0](z), torch.tensor(2.0, dtype=D)).sum(), net.trunk(x))


def _complex(call: Callable[..., Any]) -> tuple[nn.Module, Tensor]:
    net = nn.Module()
    net.weight = nn.Parameter(torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex128))
    return net, call(lambda y: (net.weight * y).abs().pow(2).sum(), data(3)[1])


READS = [
    _containers, _raw_tensor, _parameter_as_input_and_in_the_closure, _parametrization, _hypernetwork,
    _sum_of_two_leaves, _expanded, _two_tensors_fused, _no_parameters, _frozen_head, _frozen_trunk, _the_input_itself,
    _the_trunk_inside, _sparse, _sparse_and_dense, _a_function_with_a_variable, _complex,
]  # fmt: skip


@pytest.mark.parametrize("read", READS, ids=lambda read: read.__name__[1:])
def test_whatever_it_reads(read: Callable[..., Any]) -> None:
    results = []
    for call in (plain, fold):
        torch.manual_seed(4)
        net, loss = read(call)
        (loss * 0.5).backward()
        results.append([parameter.grad for parameter in net.parameters()])
    for mine, theirs in zip(*results, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine.to_dense(), theirs.to_dense(), rtol=1e-14, atol=1e-14)
