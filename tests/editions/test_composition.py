"""Editions among other things that people do in a training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import Accumulated, Cached, Edition, PerTask, Split, SummedLoss
from mtl_accum.testing import assert_bit_equal, images, run_edition, vector
from mtl_accum.verify._difference import gradient_difference

EDITIONS = [PerTask(), Split(), Split(heads_per_graph=2), Cached(chunk_size=3), Accumulated(Split(), micro_batches=2)]
every_edition = pytest.mark.parametrize("edition", EDITIONS, ids=repr)


def plain(tasks: int = 3) -> Any:
    return vector(tasks=tasks, dropout=0.0, trunk_dropout=0.0)


def weights_after(edition: Edition, train: Callable[..., Any]) -> dict[str, torch.Tensor]:
    load = plain()
    train(edition, load)
    return {name: parameter.detach().clone() for name, parameter in load.modules.named_parameters()}


def clipped(edition: Edition, load: Any) -> None:
    optimizer = torch.optim.AdamW(load.modules.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        edition.forward_backward(load.trunk, load.tasks, load.batch)
        nn.utils.clip_grad_norm_(load.modules.parameters(), 0.1)
        optimizer.step()


def two_optimizers(edition: Edition, load: Any) -> None:
    optimizers = [torch.optim.SGD(load.modules[0].parameters(), 0.1), torch.optim.Adam(load.modules[1].parameters())]
    for _ in range(3):
        load.modules.zero_grad()
        edition.forward_backward(load.trunk, load.tasks, load.batch)
        for optimizer in optimizers:
            optimizer.step()


def freezing(edition: Edition, load: Any) -> None:
    optimizer = torch.optim.AdamW(load.modules.parameters(), lr=0.05)
    for step in range(4):
        load.modules[0].requires_grad_(step != 1)
        load.modules[1]["t1"].requires_grad_(step != 2)
        optimizer.zero_grad()
        edition.forward_backward(load.trunk, load.tasks, load.batch)
        optimizer.step()


def groups_of_tasks(edition: Edition, load: Any) -> None:
    """Tasks with their own inputs: one call per group, gradients add."""
    optimizer = torch.optim.SGD(load.modules.parameters(), lr=0.1)
    other = {name: tensor.flip(0) * 0.5 for name, tensor in load.batch.items()}
    for _ in range(2):
        optimizer.zero_grad()
        edition.forward_backward(load.trunk, {n: load.tasks[n] for n in ("t0", "t1")}, load.batch)
        edition.forward_backward(load.trunk, {"t2": load.tasks["t2"]}, other)
        optimizer.step()


def nested(edition: Edition, load: Any) -> None:
    """A task that trains another network with an edition of its own, on the way to its loss."""
    inner = vector(tasks=2, dropout=0.0, trunk_dropout=0.0)

    def task(z: Tensor, batch: dict[str, Tensor]) -> Tensor:
        inner.modules.zero_grad()
        losses = edition.forward_backward(inner.trunk, inner.tasks, inner.batch)
        return z.square().mean() * sum(losses.values())

    optimizer = torch.optim.SGD(load.modules.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        edition.forward_backward(load.trunk, {**load.tasks, "inner": task}, load.batch)
        optimizer.step()


@every_edition
@pytest.mark.parametrize(
    "train", [clipped, two_optimizers, freezing, groups_of_tasks, nested], ids=lambda f: f.__name__
)
def test_training_ends_with_the_same_weights(edition: Edition, train: Callable[..., Any]) -> None:
    expected, found = weights_after(SummedLoss(), train), weights_after(edition, train)
    assert gradient_difference(found, expected) <= 1e-9  # Adam divides small gradients by small ones


@pytest.mark.parametrize("tasks", [1, 2, 3, 7])
def test_reverse_split_is_equal_to_the_last_bit(tasks: int) -> None:
    assert_bit_equal(Split(order="reverse"), lambda: vector(torch.float32, tasks, dropout=0.0, trunk_dropout=0.25))


def test_forward_split_of_many_tasks_is_not() -> None:
    """Why the order is a choice: the same numbers in another order round differently."""
    with pytest.raises(AssertionError):
        assert_bit_equal(Split(), lambda: vector(torch.float32, 7, dropout=0.0))


@pytest.mark.parametrize("tasks", [1, 3, 7])
def test_many_heads_per_graph(tasks: int) -> None:
    load = plain(tasks)
    calls = []
    backward = torch.Tensor.backward
    torch.Tensor.backward = lambda self, *args: calls.append(1) or backward(self, *args)
    try:
        found = run_edition(Split(heads_per_graph=3), load)
    finally:
        torch.Tensor.backward = backward
    assert len(calls) == -(-tasks // 3)
    assert gradient_difference(found.gradients, run_edition(SummedLoss(), load).gradients) <= 1e-12


@every_edition
def test_compiled_network(edition: Edition) -> None:
    """A whole backend, not Dynamo alone; the compiled network sees the replayed buffers too."""
    load = images(torch.float32)
    load.modules.eval()  # compiled dropout draws other numbers than eager dropout does
    expected = run_edition(SummedLoss(), load)
    trunk = torch.compile(load.trunk, backend="aot_eager")
    load.trunk = trunk
    assert gradient_difference(run_edition(edition, load).gradients, expected.gradients) <= 1e-5


@pytest.mark.parametrize("edition", [PerTask(), Cached(chunk_size=3), Accumulated(Split(), micro_batches=2)], ids=repr)
def test_a_compiled_function_that_hides_its_modules_is_refused(edition: Edition) -> None:
    load = plain()
    with pytest.raises(ValueError, match=r"trunk is a compiled function, and no module can be found .*torch.compile"):
        edition.forward_backward(torch.compile(lambda b: b["x"], backend="eager"), load.tasks, load.batch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Split(heads_per_graph=0), "heads_per_graph must be a positive integer, found 0"),
        (lambda: Split(head_chunks=-1), "head_chunks must be a positive integer, found -1"),
        (lambda: Split(order="up"), "order must be 'forward' or 'reverse', found 'up'"),
        (lambda: Cached(chunk_size=0), "chunk_size must be a positive integer, found 0"),
        (lambda: Accumulated(Split(), micro_batches=0), "micro_batches must be a positive integer, found 0"),
        (lambda: Accumulated(3, micro_batches=2), "edition must have forward_backward, found 3"),
    ],
)
def test_bad_arguments(make: Callable[..., Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_transformers_encoder() -> None:
    """A Hugging Face model: BatchEncoding in, ModelOutput as representation, dropout on."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    bert = transformers.BertModel(config).double().train()
    heads = nn.ModuleDict({"tokens": nn.Linear(16, 4), "text": nn.Linear(16, 3)}).double()
    batch = transformers.BatchEncoding({"input_ids": torch.randint(0, 50, (5, 7)), "text": torch.randint(0, 3, (5,))})
    tasks = {
        "tokens": lambda z, b: nn.functional.cross_entropy(heads["tokens"](z.last_hidden_state).mT, b["input_ids"] % 4),
        "text": lambda z, b: nn.functional.cross_entropy(heads["text"](z.pooler_output), b["text"]),
    }
    modules = nn.ModuleList([bert, heads])
    from mtl_accum.testing import Workload, assert_same_gradient
    from mtl_accum.verify._oracle import oracle

    load = Workload(lambda b: bert(input_ids=b["input_ids"]), tasks, batch, modules)
    for edition in (PerTask(), Split(), Cached(chunk_size=2), Accumulated(Split(head_chunks=2), micro_batches=2)):
        assert_same_gradient(edition, lambda: load, oracle=oracle(edition))
