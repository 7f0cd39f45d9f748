"""What is wrong in pieces or in a replay, and nobody declared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum import Accumulated, Cached, PerTask, Split, check
from tests.verify.networks import Trunk, batch, tasks


class Inject(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, torch.ones((), dtype=gradient.dtype)


class Injected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        p = self.gate(x).softmax(-1)
        return Inject.apply(p * x, 4 * p.mean(0).square().sum())


class Codebook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class OwnNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.std(0, correction=0) + 1e-1)


class Keeps(nn.Module):
    """A buffer of the batch's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x.detach()
        return x


def summed(out: Tensor, y: Tensor) -> Tensor:
    return (out - y).square().sum()


def dice(out: Any, y: Any) -> Any:
    p, y = out.sigmoid(), (y > 0).to(out.dtype)
    return 1 - 2 * (p * y).sum() / (p.sum() + y.sum())


def hardest(out: Tensor, y: Tensor) -> Tensor:
    losses = (out - y).square().flatten()
    return losses.topk(max(1, len(losses) // 3)).values.mean()


def coupled_gradient(out: Any, y: Any) -> Any:
    """The value is a plain mean; the gradient has the batch's mean in it."""
    return F.mse_loss(out, y) + ((out - out.detach()) * out.detach().mean(0)).mean()


PIECES = {"cached": Cached(4), "pieces": Accumulated(Split(), 3)}
HEADS_IN_PIECES = {"head chunks": Split(head_chunks=2), "pieces": Accumulated(Split(), 3)}
REPLAYS = {"per_task": PerTask(), "cached": Cached(4), "pieces": Accumulated(Split(), 3)}
UNDECLARED = {
    "injected gradient": (lambda: Trunk(Injected()), None, REPLAYS, "twice the losses do not give twice the gradient"),
    "own batch norm": (lambda: Trunk(OwnNorm()), None, PIECES, "uses batch statistics"),
    "codebook": (lambda: Trunk(Codebook()), None, PIECES, "a buffer that the next one reads"),
    "buffer of the batch's shape": (
        lambda: Trunk(Keeps()),
        None,
        PIECES,
        "odd.kept differs most; .* the buffer is not",
    ),
    "sum": (Trunk, summed, HEADS_IN_PIECES, "its count is not its mean's denominator"),
    "dice": (Trunk, dice, HEADS_IN_PIECES, "the loss of 'y' over pieces is not that of the whole batch"),
    "hardest examples": (Trunk, hardest, HEADS_IN_PIECES, "the loss of 'y' over pieces is not that of the whole batch"),
    "coupled gradient": (
        Trunk,
        coupled_gradient,
        HEADS_IN_PIECES,
        "losses .* right, but the gradient of 'y' is not: it c",
    ),
}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("kind", UNDECLARED)
def test_what_nobody_declared_does_not_pass(kind: str, dropout: float) -> None:
    make, loss, editions, reason = UNDECLARED[kind]
    trunk = make()
    trunk.last = nn.Sequential(nn.Dropout(dropout), trunk.last)  # type: ignore[assignment]
    result = check(trunk, tasks(loss), batch(), editions={**editions, "split": Split()})
    assert result.editions["split"].verdict == "exact"
    for name in editions:
        edition = result.editions[name]
        assert edition.verdict == "DIFFERS", name
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(edition.reason)
