"""What `fold` refuses, in words: nothing is wrong without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mtl_accum import Accumulated, Split, fold
from mtl_accum.editions import Schedule
from tests.editions.folded import Net, data


def test_a_derivative_of_the_derivative() -> None:
    net, (x, y) = Net(), data()
    with pytest.raises(RuntimeError, match="without create_graph=True.*cannot be differentiated again.*SummedLoss"):
        net(x, y).backward(create_graph=True)


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (lambda z: (z.sum(), z.sum()), TypeError, "fold: <lambda>: expected a 0-dim tensor as loss, found tuple"),
        (lambda z: 3.0, TypeError, "expected a 0-dim tensor as loss, found float"),
        (lambda z: z.sum() * 1j, TypeError, "expected a real loss, found one of torch.complex64"),
        (lambda z: z, ValueError, r"expected a 0-dim loss, found one of shape \(2, 3\); reduce it"),
        (lambda z: z.mul_(2).sum(), RuntimeError, "fold: <lambda>: .* in-place operation on the representation"),
    ],
)
def test_no_loss(function: Callable[..., Any], kind: type[Any], message: str) -> None:
    with pytest.raises(kind, match=message):
        fold(function, torch.ones(2, 3, requires_grad=True))


@pytest.mark.parametrize(
    ("scale", "kind", "message"),
    [
        ("1024", TypeError, "scale must be a number.*found '1024'"),
        (True, TypeError, "scale must be a number"),
        (torch.ones(2), TypeError, "scale must be a number"),
        (lambda: None, TypeError, "scale must be a number"),
        (torch.tensor(-1.0), ValueError, "found -1.0"),
        (0, ValueError, "scale must be a finite number greater than 0, found 0"),
        (float("nan"), ValueError, "found nan"),
    ],
)
def test_no_scale(scale: Any, kind: type[Any], message: str) -> None:
    with pytest.raises(kind, match=message):
        fold(lambda z: z.sum(), torch.ones(2, requires_grad=True), scale=scale)


def test_features_that_the_trunk_computed_besides() -> None:
    net, (x, y) = Net(1), data()
    kept = []
    net.trunk[0].register_forward_hook(lambda module, inputs, output: kept.append(output))
    z = net.trunk(x)
    with pytest.raises(RuntimeError, match="expected to read the representation alone.*an input of its own"):
        fold(lambda z: F.mse_loss(net.heads[0](z + kept[0]), y), z)


def test_a_graph_that_is_no_input() -> None:
    net, (x, y) = Net(1), data()
    z = net.trunk(x)
    with pytest.raises(RuntimeError, match="an input of its own"):
        fold(lambda: F.mse_loss(net.heads[0](z), y))


def test_a_graph_outside_that_another_loss_has_freed() -> None:
    net, (x, y) = Net(1), data()
    weight = torch.exp(net.heads[0][2].bias)
    z = net.trunk(x)
    fold(lambda z: F.mse_loss(weight * net.heads[0](z), y), z)
    with pytest.raises(RuntimeError, match="fold: <lambda>: it reads what another task.*computed; that graph is gone"):
        fold(lambda z: F.mse_loss(weight * net.heads[0](z), y), z)


def test_derivatives_of_the_input() -> None:
    x = torch.ones(3, requires_grad=True)
    z = x * 2
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        fold(lambda z: torch.autograd.grad(z.pow(2).sum(), x, create_graph=True)[0].sum(), z)


def test_a_representation_in_float16_under_a_head_in_float32() -> None:
    net, (x, y) = Net(1).float(), [value.float() for value in data()]
    z = net.trunk(x).half()
    function = lambda z: F.mse_loss(net.heads[0](z.float()), y)
    with pytest.raises(RuntimeError, match="scale= for values in float16"):
        fold(function, z)
    fold(function, z, scale=2.0**10).backward()


@pytest.mark.parametrize("edition", [Split(), Split(head_chunks=2), Accumulated(Split(), 2)], ids=repr)
def test_a_reentrant_checkpoint_in_a_head(edition: Schedule) -> None:
    net, (x, y) = Net(1), data()

    def task(z: Tensor, batch: tuple[Tensor, Tensor], reentrant: bool = True) -> Tensor:
        return F.mse_loss(checkpoint(net.heads[0], z, use_reentrant=reentrant), batch[1])

    advice = "runs torch.utils.checkpoint with use_reentrant=True.*pass use_reentrant=False"
    with pytest.raises(RuntimeError, match=f"task 'a': it {advice}"):
        edition.loss(lambda b: net.trunk(b[0]), {"a": task}, (x, y))
    with pytest.raises(RuntimeError, match=f"fold: task: it {advice}"):
        fold(task, net.trunk(x), (x, y))
    fold(task, net.trunk(x), (x, y), False).backward()
