"""Loss in chunks inside editions, `fold` and compiled code; and its backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mtl_accum import (
    Accumulated,
    AsLoss,
    Cached,
    Checkpointed,
    Edition,
    MultiTaskModel,
    Offloaded,
    PerTask,
    Split,
    SummedLoss,
    backward_scale,
    fold,
)
from mtl_accum.models import UncertaintyWeight, chunked, lm_heads
from mtl_accum.verify._difference import gradient_difference
from tests.models.vocabulary import WIDTH, Network, assert_same, data, gradients
from tests.prediction.against_the_meter import assert_equal_to_the_byte, predicted_and_measured

EDITIONS = [
    SummedLoss(),
    PerTask(),
    Split(),
    Split(heads_per_graph=2, order="reverse"),
    Split(head_chunks=2),
    Cached(3),
    Checkpointed(Split()),
    Offloaded(Split()),
    Accumulated(Split(), 2),
    AsLoss(Split()),
    AsLoss(Split(head_chunks=2)),
    AsLoss(Split(), each=True),
    AsLoss(SummedLoss()),
    AsLoss(Cached(3)),
    AsLoss(Accumulated(SummedLoss(), 2)),
]


@pytest.mark.parametrize("edition", EDITIONS, ids=repr)
def test_inside_an_edition(network: Network, edition: Edition) -> None:
    """Two heads on one vocabulary, whose losses an edition multiplies, sums and weighs."""
    x, labels = data(8)
    batch = {"x": x, "y": labels.clamp(min=0)}
    second = nn.Linear(WIDTH, WIDTH).double()
    network.second = second

    def tasks(summed: Callable[..., Tensor]) -> dict[str, Callable[..., Tensor]]:
        return {
            "one": lambda z, b: summed(z, b["y"]) / len(b["y"]),
            "two": lambda z, b: 0.7 * summed(second(z), b["y"]) / len(b["y"]),
        }

    def trunk(b: dict[str, Tensor]) -> Tensor:
        return network.trunk(b["x"])

    results = []
    for schedule, summed in ((SummedLoss(), network.summed), (edition, chunked(network.summed, 3))):
        network.zero_grad()
        with backward_scale(3.0):
            losses = schedule.forward_backward(trunk, tasks(summed), batch)
        results.append(({n: p.grad.clone() for n, p in network.named_parameters()}, losses))
    (expected, plain), (ours, losses) = results
    assert gradient_difference(ours, expected) <= 1e-12
    assert gradient_difference(losses, plain) <= 1e-12


def test_inside_fold_and_inside_itself(network: Network) -> None:
    x, labels = data(12)
    once = chunked(network.summed, 3)
    assert_same(
        network,
        lambda: 5 * network.summed(network.trunk(x), labels),
        lambda: 5 * fold(once, network.trunk(x), labels, scale=64.0),
    )
    assert_same(
        network, lambda: network.summed(network.trunk(x), labels), lambda: chunked(once, 2)(network.trunk(x), labels)
    )


def test_tensors_and_modules_that_a_function_may_use(network: Network) -> None:
    """A weight that is used twice, one that is the trunk's too, gradients that are one tensor, a raw tensor."""
    x, labels = data(12)
    tied = nn.Parameter(torch.randn(5, WIDTH, dtype=torch.float64))
    p, q = (nn.Parameter(torch.randn(WIDTH, dtype=torch.float64)) for _ in range(2))
    network.extra = nn.ParameterList([tied, p, q])

    def trunk() -> Tensor:
        return x @ tied

    def summed(z: Tensor, y: Tensor) -> Tensor:
        twice = F.linear(F.linear(z + p + q, network.words.weight), network.words.weight.T)
        return F.cross_entropy(network.words(twice), y, reduction="sum") + F.linear(z, tied).sum()

    assert_same(network, lambda: summed(trunk(), labels), lambda: chunked(summed, 5)(trunk(), labels))


def test_a_checkpoint_inside(network: Network) -> None:
    x, labels = data(9)

    def summed(z: Tensor, y: Tensor) -> Tensor:
        return checkpoint(network.summed, z, y, use_reentrant=False)

    assert_same(
        network,
        lambda: network.summed(network.trunk(x), labels),
        lambda: chunked(summed, 3)(network.trunk(x), labels),
    )


def test_compiled(network: Network) -> None:
    """A compiled head, and a compiled loss: a break in its graph."""
    x, labels = data(12)
    hidden = torch.compile(network.hidden, backend="eager")

    def summed(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(network.words(hidden(z)), y, reduction="sum")

    ours = torch.compile(lambda: chunked(summed, 3)(network.trunk(x), labels), backend="eager")
    assert_same(network, lambda: network.summed(network.trunk(x), labels), ours)


def test_hooks_of_parameters_run_in_the_backward(network: Network) -> None:
    x, labels = data(12)
    seen: list[Tensor] = []
    network.words.weight.register_hook(seen.append)
    network.hidden[0].weight.register_hook(lambda g: g * 2)
    z = network.trunk(x)
    loss = chunked(network.summed, 3)(z, labels) * 2
    assert not seen
    loss.backward()
    (gradient,) = seen
    torch.testing.assert_close(gradient, network.words.weight.grad)
    doubled = network.hidden[0].weight.grad.clone()
    assert_same(
        network,
        lambda: 2 * network.summed(network.trunk(x), labels),
        lambda: chunked(network.summed, 3)(network.trunk(x), labels) * 2,
    )
    torch.testing.assert_close(doubled, network.hidden[0].weight.grad)


def test_backward_twice(network: Any) -> None:
    """With retain_graph the gradients stay; the last backward may use them up."""
    x, labels = data(12)
    once = gradients(network, network.summed(network.trunk(x), labels))
    once = {name: gradient.clone() for name, gradient in once.items()}
    loss = chunked(network.summed, 3)(network.trunk(x), labels)
    network.zero_grad()
    for keep in (True, True, False):
        (loss * 0.5).backward(retain_graph=keep)
    assert gradient_difference({n: p.grad / 1.5 for n, p in network.named_parameters()}, once) <= 1e-12
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_a_second_derivative_is_refused(network: Network) -> None:
    x, labels = data(12)
    z = network.trunk(x)
    loss = chunked(network.summed, 3)(z, labels)
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(loss, z, create_graph=True)


def test_a_batched_backward(network: Network) -> None:
    x, labels = data(12)
    z = network.trunk(x)
    factors = torch.tensor([1.0, -2.0], dtype=torch.float64)
    (expected,) = torch.autograd.grad(network.summed(z, labels), z, retain_graph=True)
    loss = chunked(network.summed, 3)(z, labels)
    (gradients_of_z,) = torch.autograd.grad(loss, z, factors, is_grads_batched=True)
    torch.testing.assert_close(gradients_of_z, factors[:, None, None] * expected)


@pytest.mark.parametrize("edition", [Split(), AsLoss(SummedLoss())], ids=repr)
def test_its_memory_is_predicted_to_the_byte(edition: Edition) -> None:
    model, batch = language_model(3, ahead=1)
    assert_equal_to_the_byte(*predicted_and_measured(model.trunk, model.tasks, batch, edition))


@pytest.mark.parametrize("edition", [SummedLoss(), Split(), AsLoss(Split())], ids=repr)
def test_a_trained_weight_of_a_language_model(edition: Edition) -> None:
    """The weight multiplies the mean, outside the chunks."""
    gradients_by_chunks = []
    for chunks in (1, 3):
        model, batch = language_model(chunks)
        for task in model.tasks.values():
            task.weight = UncertaintyWeight()
        model.double()
        edition.forward_backward(model.trunk, model.tasks, batch)
        gradients_by_chunks.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert gradient_difference(gradients_by_chunks[1], gradients_by_chunks[0]) <= 1e-12


def language_model(chunks: int, ahead: int = 2) -> tuple[MultiTaskModel, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = lm_heads(1 / 32, vocabulary=6000, length=640, layers=64, heads=32, ahead=ahead, chunks=chunks, dropout=0.0)
    return model, {"tokens": torch.randint(0, 180, (3, 20))}
