"""Weights of tasks: numbers, parameters and modules, trained exactly by every edition or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mtl_accum import Accumulated, Cached, Checkpointed, Edition, OverBatches, PerTask, Split, SummedLoss, Task
from mtl_accum.models import LanguageHead, LanguageTask, UncertaintyWeight
from mtl_accum.testing import SAMPLES, Workload, assert_same_gradient, vector
from mtl_accum.verify._difference import gradient_difference
from tests.models.networks import Of

WHOLE = [SummedLoss(), PerTask(), Split(), Split(order="reverse"), Cached(2), Checkpointed(Split())]
IN_PIECES = [Split(head_chunks=3), Cached(2, head_chunks=2), Accumulated(Split(), 3), Accumulated(Cached(2), 2)]
every_edition = pytest.mark.parametrize("edition", [*WHOLE, *IN_PIECES], ids=repr)
in_pieces = pytest.mark.parametrize("edition", IN_PIECES, ids=repr)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, 0.3))


EXACT = {
    "a number": lambda: 0.25,
    "a parameter of shape (1,)": lambda: parameter(1),
    "a parameter of shape ()": lambda: parameter(),
    "uncertainty": lambda: UncertaintyWeight(0.4),
    "a module without offset": lambda: Of(lambda s, loss: (torch.exp(-s) * loss).squeeze()),
}


def log() -> Of:
    return Of(lambda s, loss: (s * torch.log1p(loss)).squeeze())


def load(weight: Any, reduction: str = "mean", wrap: Callable[..., Any] | type[Any] = lambda task: task) -> Workload:
    """Two tasks on a trunk of two layers; the labels are spread unevenly over the pieces."""
    base = vector(dropout=0.0, trunk_dropout=0.0, tasks=1)
    task = Task(nn.Linear(8, 4), nn.CrossEntropyLoss(reduction=reduction), "labels", weight).double()
    base.modules.append(task)
    base.batch["labels"] = torch.tensor([0, -100, 3, 1, -100, -100, 2])
    return Workload(base.trunk, {**base.tasks, "weighted": wrap(task)}, base.batch, base.modules)


@every_edition
@pytest.mark.parametrize("name", EXACT)
def test_weights_are_trained_exactly(edition: Edition, name: str) -> None:
    torch.manual_seed(3)
    assert_same_gradient(edition, lambda: load(EXACT[name]()))


def test_value_of_a_weighted_loss() -> None:
    z, batch = torch.randn(5, 4), {"y": torch.tensor([0, 1, 2, 0, 1])}
    head = nn.Linear(4, 3)
    plain = Task(head, nn.CrossEntropyLoss(), "y")(z, batch)
    for weight in (parameter(1), parameter()):
        loss = Task(head, nn.CrossEntropyLoss(), "y", weight)(z, batch)
        assert loss.shape == () and torch.equal(loss, 0.3 * plain)
    task = Task(head, nn.CrossEntropyLoss(), "y", UncertaintyWeight(0.4))
    assert [n for n, _ in task.named_parameters()] == ["head.weight", "head.bias", "weight.log_variance"]
    loss = task(z, batch)
    torch.testing.assert_close(loss, plain * torch.exp(torch.tensor(-0.4)) + 0.4)
    loss.backward()
    torch.testing.assert_close(task.weight.log_variance.grad, (1 - plain.detach() * 0.67032).reshape(1))


@pytest.mark.parametrize("chunks", [1, 3])
def test_weights_of_language_tasks(chunks: int) -> None:
    torch.manual_seed(0)
    head = LanguageHead(nn.Linear(8, 8), 8, nn.Linear(8, 11)).double()
    z = torch.randn(2, 6, 8, dtype=torch.float64)
    batch = {"labels": torch.randint(0, 11, (2, 6))}
    plain = LanguageTask(head, "labels")(z, batch)
    weight = UncertaintyWeight(0.4).double()
    loss = LanguageTask(head, "labels", weight, chunks=chunks)(z, batch)
    torch.testing.assert_close(loss, weight(plain), rtol=1e-12, atol=0)
    loss.backward()
    torch.testing.assert_close(weight.log_variance.grad[0], 1 - torch.exp(-weight.log_variance[0]) * plain)


@pytest.mark.parametrize("edition", WHOLE, ids=repr)
def test_any_module_is_exact_on_the_whole_batch(edition: Edition) -> None:
    assert_same_gradient(edition, lambda: load(log()))


class Around(nn.Module):
    """A user's module around a task."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, z: Any, batch: Any) -> Any:
        return 2 * self.task(z, batch)


@in_pieces
@pytest.mark.parametrize("wrap", [lambda task: task, Around], ids=["bare", "in a module"])
def test_a_weight_that_is_not_affine_is_refused_in_pieces(
    edition: Edition, wrap: Callable[..., Any] | type[Any]
) -> None:
    network = load(log(), wrap=wrap)
    network.tasks["weighted"].register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    with pytest.raises(
        ValueError, match=r"task 'weighted': its weight \(Of\) is not affine in the loss.*Split"
    ) as error:
        edition.forward_backward(network.trunk, network.tasks, network.batch)
    assert "\n" not in str(error.value)
    assert all(p.grad is None for p in network.modules.parameters())


def test_a_weight_that_is_not_affine_is_refused_below_a_function() -> None:
    network = load(log())
    task = network.tasks["weighted"]
    tasks = {"function": lambda z, batch: task(z, batch)}
    with pytest.raises(ValueError, match=r"task 'function': it calls a Task; its weight \(Of\) is not affine"):
        Split(head_chunks=3).forward_backward(network.trunk, tasks, network.batch)


def test_a_weight_that_is_not_affine_is_refused_over_batches() -> None:
    network = load(log())
    halves = [{key: value[a:b] for key, value in network.batch.items()} for a, b in ((0, 4), (4, SAMPLES))]
    with pytest.raises(ValueError, match=r"OverBatches: task 'weighted': its weight \(Of\)"):
        OverBatches(Split()).forward_backward(network.trunk, network.tasks, halves)
    OverBatches(Split()).forward_backward(network.trunk, network.tasks, halves[:1])


@in_pieces
def test_random_weights_are_refused_in_pieces(edition: Edition) -> None:
    network = load(Of(lambda s, loss: torch.rand(()) * loss))
    with pytest.raises(ValueError, match=r"task 'weighted': its weight \(Of\) draws random numbers"):
        edition.forward_backward(network.trunk, network.tasks, network.batch)


@in_pieces
def test_a_sum_takes_no_offset(edition: Edition) -> None:
    assert_same_gradient(edition, lambda: load(EXACT["a module without offset"](), "sum"))
    assert_same_gradient(edition, lambda: load(parameter(1), "sum"))
    network = load(UncertaintyWeight(), "sum")  # its offset is 0 at first, and will not stay so
    with pytest.raises(ValueError, match="adds a term, which would come once per piece, to a sum"):
        edition.forward_backward(network.trunk, network.tasks, network.batch)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        ("big", TypeError, "weight must be a number, an nn.Parameter or a module .* found 'big'"),
        (float("nan"), TypeError, "found nan"),
        (torch.tensor(2.0), TypeError, r"found tensor\(2.\); wrap the tensor: nn.Parameter\(tensor\)"),
        (UncertaintyWeight, TypeError, "found <class .*UncertaintyWeight"),
        (
            parameter(3),
            ValueError,
            r"shape \(\) or \(1,\), found one of shape \(3,\).*a parameter of its own",
        ),
        (parameter(1, 1), ValueError, r"found one of shape \(1, 1\)"),
        (nn.Parameter(torch.ones(1, dtype=torch.int64), requires_grad=False), ValueError, "floating-point"),
    ],
)
def test_weights_that_are_none(weight: Any, error: type[Any], message: str) -> None:
    with pytest.raises(error, match=message):
        Task(nn.Linear(8, 4), nn.CrossEntropyLoss(), "y", weight)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda s, loss: loss * s, ValueError, r"weight \(Of\) must return a 0-dim loss .* shape \(1,\); squeeze\(\)"),
        (lambda s, loss: 0.5, TypeError, r"weight \(Of\) must return a 0-dim tensor, found float"),
    ],
)
def test_a_module_must_return_a_loss(function: Callable[..., Any], error: type[Any], message: str) -> None:
    network = load(Of(function))
    with pytest.raises(error, match=message):
        Split().forward_backward(network.trunk, network.tasks, network.batch)


def test_an_absent_task_leaves_its_weight_alone() -> None:
    network = load(UncertaintyWeight())
    del network.batch["labels"]
    Split().forward_backward(network.trunk, network.tasks, network.batch)
    assert network.tasks["weighted"].weight.log_variance.grad is None


def test_batches_of_a_loader_train_an_uncertainty_weight() -> None:
    network = load(UncertaintyWeight(0.4))
    batches = [{key: value[a:b] for key, value in network.batch.items()} for a, b in ((0, 3), (3, 4), (4, SAMPLES))]
    SummedLoss().forward_backward(network.trunk, network.tasks, network.batch)
    expected = network.gradients()
    network.modules.zero_grad()
    OverBatches(Split()).forward_backward(network.trunk, network.tasks, batches)
    assert gradient_difference(network.gradients(), expected) <= 1e-12
