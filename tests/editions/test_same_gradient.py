"""Every edition gives SummedLoss's gradient, with dropout on, in every kind of representation."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from mtl_accum import Accumulated, Cached, Edition, PerTask, Split, SummedLoss, backward_scale
from mtl_accum.editions import ReplayError
from mtl_accum.testing import assert_bit_equal, assert_same_gradient, images, nested, run_edition, vector

EDITIONS = [PerTask(), Split()]
ALL = [SummedLoss(), *EDITIONS]
Pair = namedtuple("Pair", "first second rest")


@dataclass(frozen=True)
class Features:
    first: torch.Tensor
    second: torch.Tensor
    rest: torch.Tensor


CONTAINERS = {
    "tuple": (lambda a, b, n: (a, b, n), lambda z, i: z[i]),
    "list": (lambda a, b, n: [a, [b, n]], lambda z, i: z[1][0] if i else z[0]),
    "dict": (lambda a, b, n: {"a": a, "b": {"c": b, "n": n, "x": None}}, lambda z, i: z["b"]["c"] if i else z["a"]),
    "namedtuple": (Pair, lambda z, i: z[i]),
    "OrderedDict": (lambda a, b, n: OrderedDict(a=a, b=b, n=n), lambda z, i: z["b" if i else "a"]),
    "UserDict": (lambda a, b, n: UserDict(a=a, b=b, n=n), lambda z, i: z["b" if i else "a"]),
    "dataclass": (Features, lambda z, i: z.second if i else z.first),
    "the same tensor twice": (lambda a, b, n: (a, a, n), lambda z, i: z[i]),
}  # fmt: skip


@pytest.mark.parametrize("edition", EDITIONS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("make", [vector, images])
def test_gradient_with_dropout(edition: Edition, make: Any, dtype: torch.dtype) -> None:
    assert_same_gradient(edition, lambda: make(dtype))


@pytest.mark.parametrize("edition", EDITIONS, ids=repr)
@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_any_number_of_tasks(edition: Edition, tasks: int) -> None:
    assert_same_gradient(edition, lambda: vector(tasks=tasks))


@pytest.mark.parametrize("edition", EDITIONS, ids=repr)
@pytest.mark.parametrize("container", CONTAINERS, ids=str)
def test_any_container_as_representation(edition: Edition, container: str) -> None:
    assert_same_gradient(edition, lambda: nested(*CONTAINERS[container]))


@pytest.mark.parametrize("edition", EDITIONS, ids=repr)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_statistics_change_once(edition: Edition, momentum: float | None) -> None:
    assert_same_gradient(edition, lambda: vector(norm=nn.BatchNorm1d(9, momentum=momentum)))


@pytest.mark.parametrize("make", [lambda: vector(torch.float32, tasks=2, dropout=0.0), lambda: images(torch.float32)])
def test_split_of_two_tasks_is_equal_to_the_last_bit(make: Callable[..., Any]) -> None:
    assert_bit_equal(Split(), make)


@pytest.mark.parametrize("edition", [*ALL, Cached(chunk_size=3), Accumulated(Split(head_chunks=2), 2)], ids=repr)
def test_gradients_are_added_to_those_already_there(edition: Any) -> None:
    load = vector()
    once = run_edition(edition, load).gradients
    torch.manual_seed(5)
    edition.forward_backward(load.trunk, load.tasks, load.batch)
    for name, gradient in load.gradients().items():
        torch.testing.assert_close(gradient, 2 * once[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("edition", ALL, ids=repr)
def test_backward_scale_reaches_gradients_and_not_losses(edition: Any) -> None:
    load = vector()
    plain = run_edition(edition, load)
    with backward_scale(4.0), backward_scale(torch.tensor(2.0)):
        scaled = run_edition(edition, load)
    for name, gradient in plain.gradients.items():
        torch.testing.assert_close(scaled.gradients[name], 8 * gradient, rtol=1e-12, atol=1e-14)
    assert all(torch.equal(scaled.losses[name], loss) for name, loss in plain.losses.items())


def test_backward_scale_must_be_a_number() -> None:
    with (
        pytest.raises(TypeError, match="scale must be a number or a 0-dim tensor"),
        backward_scale(torch.ones(2)),
    ):
        pass


def test_the_test_bites_without_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """PerTask without the first pass's random numbers is not exact; the assertion must say so."""
    monkeypatch.setattr("mtl_accum._state._rng.RngState.restore", lambda self, present=None: None)
    with pytest.raises(ReplayError, match="second pass computed something else"):
        run_edition(PerTask(), vector())
    monkeypatch.setattr("mtl_accum.editions._engine.replay._second_pass.Comparison.add", lambda self, outputs: None)
    with pytest.raises(AssertionError):
        assert_same_gradient(PerTask(), vector)
