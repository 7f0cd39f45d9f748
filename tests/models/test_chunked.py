"""Loss in chunks: value and gradient of the plain loss, in any place of a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_accum.models import chunked
from tests.models.vocabulary import WIDTH, WORDS, Network, assert_same, data, gradients

summed_cross_entropy = partial(F.cross_entropy, reduction="sum")


@pytest.mark.parametrize("frozen", ["", "words", "hidden", "trunk", "words.weight"])
@pytest.mark.parametrize("chunks", [1, 3, 8, 100])
def test_it_equals_the_plain_loss(network: Network, chunks: int, frozen: str) -> None:
    x, labels = data(23)
    if frozen:
        network.get_submodule(frozen.removesuffix(".weight")).requires_grad_(False)
        network.words.bias.requires_grad_(frozen != "words")
    summed = chunked(network.summed, chunks)
    assert_same(
        network,
        lambda: network.summed(network.trunk(x), labels) / 17,
        lambda: summed(network.trunk(x), labels) / 17,
    )


@pytest.mark.parametrize("dim", [1, -1])
def test_any_dimension(network: Network, dim: int) -> None:
    """Negative dimensions count from the end, separately for each input."""
    x, labels = data(3, 11)
    z = network.trunk(x)
    if dim == 1:
        assert_same(
            network,
            lambda: network.summed(network.trunk(x), labels),
            lambda: chunked(network.summed, 4, dim=1)(network.trunk(x), labels),
        )
    weights = torch.rand(11, dtype=torch.float64)
    plain = (z[..., 0] * weights).square().sum()
    torch.testing.assert_close(chunked(lambda a, b: (a * b).square().sum(), 4, dim=-1)(z[..., 0], weights), plain)


WEIGHTS = torch.linspace(0.1, 1, 6).double()


@pytest.mark.parametrize("labels_missing", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ignore_index": 3},
        {"weight": WEIGHTS},
        {"label_smoothing": 0.1},
        {"ignore_index": 250},
    ],
    ids=["plain", "ignored", "weighted", "smoothed", "none ignored"],
)
def test_pixels(options: dict[str, Any], labels_missing: bool) -> None:
    """Every option of the cross-entropy, on maps that are cut along their height."""
    torch.manual_seed(0)
    head = nn.Conv2d(4, 6, 1).double()
    trunk = nn.Conv2d(3, 4, 3, padding=1).double()
    network, x = nn.Sequential(trunk, head), torch.randn(2, 3, 9, 5).double()
    labels = torch.randint(0, 6, (2, 9, 5))
    if labels_missing:
        labels[:, 2:4] = options.get("ignore_index", -100)

    def summed(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(head(z), y, reduction="sum", **options)

    # the labels have one dimension less: both are cut along the height
    ours = chunked(lambda z, y: summed(z, y.squeeze(1)), 4, dim=2)
    assert_same(network, lambda: summed(trunk(x), labels), lambda: ours(trunk(x), labels.unsqueeze(1)))


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, y: F.nll_loss(F.log_softmax(logits, -1), y.clamp(min=0), reduction="sum"),
        lambda logits, y: F.cross_entropy(logits, F.one_hot(y.clamp(min=0), WORDS).double(), reduction="sum"),
        lambda logits, y: F.cross_entropy(logits.T.unsqueeze(0), y.unsqueeze(0), reduction="sum"),
        lambda logits, y: sum(
            (F.cross_entropy(a, b, reduction="sum") for a, b in zip(logits, y.clamp(min=0), strict=True)), 0.0
        ),
        lambda logits, y: 0.3 * summed_cross_entropy(logits, y) + logits.logsumexp(-1).square().sum(),
        lambda logits, y: logits.square().sum(),
    ],
    ids=["log-softmax", "probabilities", "classes first", "row by row", "with a z-loss", "squares"],
)
def test_other_losses(network: Network, loss: Callable[..., Any]) -> None:
    x, labels = data(10)
    assert_same(
        network,
        lambda: loss(network.words(network.trunk(x)), labels),
        lambda: chunked(lambda z, y: loss(network.words(z), y), 4)(network.trunk(x), labels),
    )


def test_dropout_is_that_of_the_chunks() -> None:
    """Random numbers and the final random state are those of a plain sum over the same chunks."""
    torch.manual_seed(0)
    network, (x, labels) = Network(dropout=0.3).double(), data(14)

    def in_chunks() -> Tensor:
        z = network.trunk(x)
        return sum((network.summed(*pair) for pair in zip(z.chunk(7), labels.chunk(7), strict=True)), torch.zeros(()))

    assert_same(network, in_chunks, lambda: chunked(network.summed, 7)(network.trunk(x), labels))
    ended = torch.get_rng_state()
    torch.manual_seed(3)
    in_chunks()
    assert torch.equal(torch.get_rng_state(), ended)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(network: Network, mode: type[Any]) -> None:
    x, labels = data(12)
    sizes: list[int] = []

    def summed(z: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(z))
        return network.summed(z, y)

    with mode():
        z = network.trunk(x)
        ours = chunked(summed, 5)
        ours(z, labels)
        sizes.clear()
        loss = ours(z, labels)
        torch.testing.assert_close(loss, network.summed(z, labels))
    assert not loss.requires_grad
    assert sorted(sizes) == [2, 2, 2, 3, 3]


def test_nothing_that_requires_a_gradient(network: Network) -> None:
    x, labels = data(12)
    network.requires_grad_(False)
    assert not chunked(network.summed, 3)(x @ torch.ones(5, WIDTH).double(), labels).requires_grad


def test_no_rows(network: Network) -> None:
    x, labels = data(0)
    loss = chunked(network.summed, 3)(network.trunk(x), labels)
    assert loss == 0
    assert not gradients(network, loss)["words.weight"].any()
