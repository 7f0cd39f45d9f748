"""State that a trunk keeps, and batches that it writes into: found, and put back."""

from __future__ import annotations

import collections
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtl_accum import Accumulated, Cached, PerTask, Split, check
from tests.verify.networks import N, Trunk, batch, tasks


class WritesIntoBatch(Trunk):
    def forward(self, b: dict[str, Tensor]) -> Tensor:
        return self.last(self.first(b["x"].div_(255)))


class ViewsAndWrites(Trunk):
    def forward(self, b: dict[str, Tensor]) -> Tensor:
        b["x"][:, :4] *= 0.9
        return super().forward(b)


class PopsFromBatch(Trunk):
    def forward(self, b: dict[str, Tensor]) -> Tensor:
        scale = b.pop("scale", None)
        return super().forward(b) if scale is None else super().forward(b) * scale[:, None]


class Attribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = None

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.last is None or self.last.shape != x.shape else x + 0.5 * self.last
        self.last = y.detach()  # type: ignore[assignment]
        return y


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(8)

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - self.mean


class Counter(nn.Module):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Queue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.queue: collections.deque[Any] = collections.deque(maxlen=3)

    def forward(self, x: Tensor) -> Tensor:
        y = x + sum(entry.sum() for entry in self.queue)
        self.queue.append(x.detach())
        return y


class OwnGenerator(nn.Module):
    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        noise = self.generator.random() if not isinstance(self.generator, torch.Generator) else None
        return x * (torch.rand((), generator=self.generator) if noise is None else float(noise))


def with_closure() -> Callable[..., Any]:
    state = {"calls": 0}
    trunk = Trunk()

    def run(b: Any) -> Any:
        state["calls"] += 1
        return trunk(b) * state["calls"]

    return run


STATE = {
    "attribute": lambda: Trunk(Attribute()),
    "tensor written in place": lambda: Trunk(InPlace()),
    "counter": lambda: Trunk(Counter()),
    "queue": lambda: Trunk(Queue()),
    "generator of torch": lambda: Trunk(OwnGenerator(torch.Generator().manual_seed(0))),
    "generator of numpy": lambda: Trunk(OwnGenerator(np.random.default_rng(0))),
    "generator of Python": lambda: Trunk(OwnGenerator(random.Random(0))),
    "closure": with_closure,
}


@pytest.mark.parametrize("kind", STATE)
def test_hidden_state_is_put_back_and_found(kind: str) -> None:
    trunk, heads, data = STATE[kind](), tasks(), batch()
    before = trunk(data)
    trunk = STATE[kind]()
    editions = {"split": Split(), "per_task": PerTask(), "cached": Cached(4), "pieces": Accumulated(Split(), 3)}
    result = check(trunk, heads, data, editions=editions)
    assert torch.equal(trunk(data), before)  # as if nobody had looked
    assert result.editions["split"].verdict == "exact"
    for name in ("per_task", "cached", "pieces"):
        assert result.editions[name].verdict in ("DIFFERS", "failed", "refused"), name
        if result.editions[name].verdict == "DIFFERS":
            assert "a second pass of the trunk differs from the first" in result.editions[name].reason


@pytest.mark.parametrize("kind", [WritesIntoBatch, ViewsAndWrites])
def test_a_batch_that_is_written_into_is_copied_for_every_run(kind: type[Any]) -> None:
    data = batch()
    before = data["x"].clone()
    trunk, heads = kind(), tasks()
    result = check(trunk, heads, data, editions={"split": Split(), "per_task": PerTask(), "cached": Cached(4)})
    assert torch.equal(data["x"], before)
    assert result.editions["split"].passed()
    for name in ("per_task", "cached"):
        edition = result.editions[name]
        assert edition.verdict in ("DIFFERS", "failed", "refused")  # the last two where an edition sees it itself
        assert edition.failure or edition.refusal or "the trunk writes into its batch" in edition.reason


def test_what_a_trunk_takes_out_of_the_batch_is_there_again() -> None:
    data = batch() | {"scale": torch.rand(N)}
    result = check(PopsFromBatch(), tasks(), data, editions={"split": Split()})
    assert set(data) == {"x", "y", "z", "mask", "scale"}
    assert result.passed()
