"""Situations of trunks with state, side effects or random numbers of their own."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.parametrizations import spectral_norm

from experiments.exactness.situations._network import (
    EVERY,
    ONE_PASS,
    Layers,
    Network,
    Situation,
    heads,
    network,
    vectors,
)


class LayerDrop(Layers):
    """A trunk that skips a layer by a generator other than torch's."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def transform(self, x: Tensor) -> Tensor:
        return x * (1 + self.draw())


class Stateful(Layers):
    """A trunk that carries a hidden state over batches in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.state = torch.ones(6, dtype=torch.float64)

    def transform(self, x: Tensor) -> Tensor:
        self.state = 0.5 * self.state + x.mean(0).detach()
        return x + self.state


class Picture(Layers):
    """A trunk that keeps its latest activation and counts its calls: harmless."""

    calls = 0

    def forward(self, batch: Any) -> Any:
        self.calls += 1
        self.picture = super().forward(batch)
        return self.picture


class InPlace(Layers):
    """A trunk that normalises its input in place."""

    def transform(self, x: Tensor) -> Tensor:
        return x.div_(3)


class Balanced(Layers):
    """A trunk with a loss of its own in an attribute, as in mixtures of experts."""

    def forward(self, batch: Any) -> Any:
        z = super().forward(batch)
        self.balance = z.softmax(-1).mean(0).square().sum()
        return z


def auxiliary() -> Network:
    trunk = Balanced()
    return network(trunk, heads("a", "b") | {"balance": lambda z, batch: trunk.balance}, vectors("a", "b"))


def hooked() -> Network:
    trunk = Layers()
    kept: dict[str, Tensor] = {}
    trunk.first.register_forward_hook(lambda module, inputs, out: kept.update(h=out))
    return network(trunk, heads("a") | {"middle": lambda z, batch: kept["h"].square().mean()}, vectors("a"))


class _Inject(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, loss: Tensor) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, torch.ones((), dtype=gradient.dtype)


class Injecting(Balanced):
    """A trunk that injects the gradient of its own loss into the backward (DeepSpeed's and Megatron's mixtures)."""

    def forward(self, batch: Any) -> Any:
        return _Inject.apply(super().forward(batch), self.balance)  # type: ignore[no-untyped-call]


class Standardised(Layers):
    """A trunk that normalises by the batch's statistics, by hand."""

    def transform(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-3).sqrt()


def spectral() -> Network:
    net = network(Layers(), heads("a", "b"), vectors("a", "b"))
    spectral_norm(net.trunk.first)
    return net


TRUNKS: dict[str, Situation] = {
    "numpy's generator": Situation(
        lambda: network(LayerDrop(np.random.rand), heads("a", "b"), vectors("a", "b")), EVERY, by_pieces=True
    ),
    "Python's generator": Situation(
        lambda: network(LayerDrop(random.random), heads("a", "b"), vectors("a", "b")), EVERY, by_pieces=True
    ),
    "state carried over in an attribute": Situation(
        lambda: network(Stateful(), heads("a", "b"), vectors("a", "b")),
        ONE_PASS,
        blind=("Accumulated",),
        fix="`Split`",
    ),
    "an attribute that keeps a picture": Situation(
        lambda: network(Picture(), heads("a", "b"), vectors("a", "b")), EVERY
    ),
    "a trunk that writes into its batch": Situation(
        lambda: network(InPlace(), heads("a", "b"), vectors("a", "b")),
        (*ONE_PASS, "Accumulated"),
        fix="`x / 3` in place of `x.div_(3)`, or `Split`",
    ),
    "a loss of the trunk's own, in an attribute": Situation(
        auxiliary, ("SummedLoss", "PerTask"), fix="return it as a part of the representation"
    ),
    "features kept by a hook": Situation(
        hooked, ("SummedLoss", "PerTask"), fix="return them as a part of the representation"
    ),
    "a gradient injected into the backward": Situation(
        lambda: network(Injecting(), heads("a", "b"), vectors("a", "b")),
        (*ONE_PASS, "Checkpointed", "Cached, one chunk"),
        blind=("PerTask", "Cached", "Accumulated"),
        fix="`Split`",
    ),
    "spectral norm": Situation(spectral, (*ONE_PASS, "PerTask", "Checkpointed", "Cached, one chunk"), fix="`Split`"),
    "batch statistics by hand": Situation(
        lambda: network(Standardised(), heads("a", "b"), vectors("a", "b")),
        (*ONE_PASS, "PerTask", "Checkpointed", "Cached, one chunk"),
        blind=("Cached", "Accumulated"),
        fix="`Split`",
    ),
}
