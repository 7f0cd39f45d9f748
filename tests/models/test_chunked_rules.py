"""Loss in chunks: refusals, rounding and memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from mtl_accum import Split, SummedLoss, backward_scale, fold
from mtl_accum.memory import TensorMeter
from mtl_accum.models import chunked, lm_heads
from mtl_accum.verify._difference import gradient_difference
from tests.models.vocabulary import WORDS, Network, data, gradients

MEAN = "expected a sum over the rows of dimension 0, found"


def mean(network: Network) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda z, y: F.cross_entropy(network.words(network.hidden(z)), y)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("rows", [2, 9, 200])
def test_a_mean_is_refused(rows: int, dropout: float) -> None:
    network, (x, labels) = Network(dropout=dropout).double(), data(rows)
    with pytest.raises(ValueError, match=f"chunked: .*<lambda>: {MEAN} .* use reduction='sum'"):
        chunked(mean(network), 2)(network.trunk(x), labels.clamp(min=0))


def test_a_mean_is_refused_once_it_can_be_seen(network: Network) -> None:
    """If all labels are missing, nothing is decided; labels missing in one piece give NaN."""
    x, labels = data(40)
    with_chance, missing = mean(network), torch.full_like(labels, -100)
    assert chunked(with_chance, 2)(network.trunk(x), missing).isnan()
    labels[:10] = -100
    with pytest.raises(ValueError, match=MEAN):
        chunked(with_chance, 2)(network.trunk(x), labels)
    assert chunked(network.summed, 2)(network.trunk(x), missing) == 0


@pytest.mark.parametrize("rows", [2, 16, 100])
def test_a_sum_with_random_numbers_passes(rows: int) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        network, (x, labels) = Network(dropout=0.5).double(), data(rows)
        assert chunked(lambda z, y, n=network: n.summed(z, y), 2)(network.trunk(x), labels.clamp(min=0)).isfinite()


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: F.cross_entropy(z @ z.T, torch.arange(len(z)), reduction="sum"),
        lambda z, y: z.square().sum() + 100.0,
        lambda z, y: z.square().mean(0).sum(),
    ],
    ids=["contrastive", "with a constant", "a mean of its own"],
)
def test_losses_that_couple_rows_are_refused(network: Network, loss: Callable[..., Any]) -> None:
    x, labels = data(12)
    with pytest.raises(ValueError, match=MEAN):
        chunked(loss, 3)(network.trunk(x), labels)


def test_losses_of_both_signs_pass(network: Network) -> None:
    x, labels = data(64)
    assert chunked(lambda z, y: z.sum(), 4)(network.trunk(x), labels).isfinite()
    assert chunked(lambda z, y: F.dropout(z, 0.5).sum(), 4)(network.trunk(x), labels).isfinite()


def test_batch_statistics_are_refused(network: Network) -> None:
    x, labels = data(12)
    norm = nn.BatchNorm1d(WORDS).double()
    summed = chunked(lambda z, y: F.cross_entropy(norm(network.words(z)), y, reduction="sum"), 3)
    with pytest.raises(ValueError, match=r"norm \(BatchNorm1d\) uses batch statistics.*to_group_norm"):
        summed(network.trunk(x), labels)
    assert norm.num_batches_tracked == 0
    norm.eval()
    assert summed(network.trunk(x), labels).isfinite()


def test_the_look_leaves_no_trace(network: Any) -> None:
    """Not on random numbers, buffers, `.grad`; and it is taken once, also for a lambda in a loop."""
    x, labels = data(30)
    network.register_buffer("calls", torch.zeros(()))
    weights = torch.rand(30, dtype=torch.float64)
    sizes: list[int] = []

    def step() -> Tensor:
        labels_of_this_step = labels.clone()

        def summed(z: Tensor, w: Tensor) -> Tensor:
            assert len(labels_of_this_step) == 30
            network.calls += 1
            sizes.append(len(z))
            return (F.dropout(z, 0.2).square().sum(-1) * w).sum()

        return chunked(summed, 3)(network.trunk(x), weights)

    torch.manual_seed(1)
    first = step()
    assert network.calls == 3
    assert len(sizes) > 3
    assert network.words.weight.grad is None
    torch.manual_seed(1)
    assert step() == first
    assert sizes[-3:] == [10, 10, 10] == sizes[-6:-3]


def test_any_callable(network: Network) -> None:
    """One without a hash is looked at in every call; a module, a partial and a method once."""
    x, labels = data(30)

    class Summed:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, z: Tensor, y: Tensor) -> Tensor:
            return network.summed(z, y)

        method = __call__

    plain = network.summed(network.trunk(x), labels)
    for function in (Summed(), Summed().method, partial(Summed())):
        for _ in range(2):
            torch.testing.assert_close(chunked(function, 3)(network.trunk(x), labels), plain)
    z = network.trunk(x)
    torch.testing.assert_close(chunked(nn.MSELoss(reduction="sum"), 4)(z, z + 1), torch.tensor(30.0 * 7).double())
    with pytest.raises(ValueError, match="chunked: MSELoss: " + MEAN):
        chunked(nn.MSELoss(), 4)(z, z + 1)


def test_the_look_compiles_nothing(network: Network) -> None:
    x, labels = data(30)
    counter = CompileCounter()
    hidden = torch.compile(network.hidden, backend=counter)
    chunked(lambda z, y: F.cross_entropy(network.words(hidden(z)), y, reduction="sum"), 3)(network.trunk(x), labels)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: chunked(3, 2), TypeError, "head_and_loss must be callable, found 3"),
        (lambda: chunked(sum, 0), ValueError, "chunks must be a positive integer, found 0"),
        (lambda: chunked(sum, 2)(), TypeError, "expected at least one tensor to cut, found none"),
        (lambda: chunked(sum, 2)(torch.ones(3), 2), TypeError, "input 1 must be a tensor.* found int.*closure"),
        (lambda: chunked(sum, 2)(torch.ones(3), torch.ones(())), ValueError, "input 1 must have a dimension 0"),
        (
            lambda: chunked(sum, 2)(torch.ones(3), torch.ones(4)),
            ValueError,
            r"equally long along dimension 0, where they are cut; found \(3,\), \(4,\)",
        ),
        (
            lambda: chunked(lambda z: z, 1)(torch.ones(3)),
            ValueError,
            r"expected a 0-dim loss, found one of shape \(3,\)",
        ),
        (lambda: chunked(lambda z: 1.0, 1)(torch.ones(3)), TypeError, "expected a 0-dim tensor as loss, found float"),  # type: ignore[return-value]
        (lambda: chunked(lambda z: z.sum(), 1, scale="x")(torch.ones(3)), TypeError, "scale must be a number"),
    ],
)
def test_errors_name_the_argument(call: Callable[..., Any], error: type[Any], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_graph_from_outside_is_refused(network: Network) -> None:
    """A weight that was computed before has one graph, which the first chunk frees; so has the trunk."""
    x, labels = data(12)
    weight = network.words.bias.exp()
    with pytest.raises(RuntimeError, match="computed outside of it, whose graph the first chunk has used up"):
        chunked(lambda z, y: (z @ network.words.weight.T * weight).square().sum(), 3)(network.trunk(x), labels)
    z = network.trunk(x)
    with pytest.raises(RuntimeError, match="expected to read the representation alone"):
        chunked(lambda a, y: (a * z[: len(a)]).sum(), 1)(z, labels)


def half(network: Network, device_type: str = "cpu") -> Any:
    return torch.autocast(device_type, torch.float16)


def test_fp16_takes_the_scale(network: Network) -> None:
    """Without one it is refused; small gradients become 0 otherwise."""
    network, (x, labels) = Network(), data(12, dtype=torch.float32)
    tiny = 1e-6

    def loss(ours: Callable[..., Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return ours(network.trunk(x), labels)

    def summed(z: Tensor, y: Tensor) -> Tensor:
        return network.summed(z, y) * tiny

    with pytest.raises(RuntimeError, match="expected scale= for values in float16"):
        loss(chunked(summed, 3))
    expected = gradients(network, network.summed(network.trunk(x), labels) * tiny)
    scale = torch.tensor(2.0**14)
    for scaled in (
        lambda: loss(chunked(summed, 3, scale=scale)) * scale,
        lambda: loss(chunked(summed, 3, scale=lambda: scale)) * scale,
        lambda: loss(lambda *z: fold(chunked(summed, 3), *z, scale=scale)) * scale,
        lambda: loss(chunked(chunked(summed, 2), 3, scale=scale)) * scale,
    ):
        ours = {name: gradient / scale for name, gradient in gradients(network, scaled()).items()}
        assert gradient_difference(ours, expected) < 0.02


@pytest.mark.parametrize("way", ["forward_backward", "loss", "losses"])
def test_fp16_of_a_language_model(way: str) -> None:
    """The scale of an edition reaches the chunks, divided by the count that divides their sum."""
    torch.manual_seed(0)
    model = lm_heads(1 / 32, vocabulary=1900, length=413, layers=64, heads=32, ahead=2, chunks=3, dropout=0.0)
    batch = {"tokens": torch.randint(0, 59, (3, 11))}
    SummedLoss().forward_backward(model.trunk, model.tasks, batch)
    expected = {n: p.grad for n, p in model.named_parameters()}
    model.zero_grad()
    scale = torch.tensor(2.0**15)
    with torch.autocast("cpu", torch.float16):
        if way == "forward_backward":
            with backward_scale(scale):
                Split().forward_backward(model.trunk, model.tasks, batch)
        elif way == "loss":
            total = Split().loss(model.trunk, model.tasks, batch, scale=scale)[0] * scale
        else:
            total = sum(Split().losses(model.trunk, model.tasks, batch, scale=scale).values()) * scale
    if way != "forward_backward":
        total.backward()
    ours = {n: p.grad / scale for n, p in model.named_parameters()}
    assert gradient_difference(ours, expected) < 0.02


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_16_bit_is_as_near_as_the_plain_loss(weights: str) -> None:
    """Under autocast, and with weights of 16 bit, whose sums are in float32: the error against float64."""
    errors: dict[str, float] = {"plain": 0.0, "chunked": 0.0}
    for seed in range(10):
        torch.manual_seed(seed)
        network, (x, labels) = Network(), data(240, dtype=torch.float32)
        if weights == "bfloat16":
            network, x = network.bfloat16(), x.bfloat16()
        exact = Network().double()
        exact.load_state_dict(network.state_dict())
        expected = gradients(exact, exact.summed(exact.trunk(x.double()), labels))
        for name, summed in {"plain": network.summed, "chunked": chunked(network.summed, 40)}.items():
            with torch.autocast("cpu", torch.bfloat16) if weights == "float32" else nullcontext():
                loss = summed(network.trunk(x), labels)
            ours = {n: g.double() for n, g in gradients(network, loss).items()}
            errors[name] += gradient_difference(ours, expected) / 10
    assert errors["chunked"] <= 1.05 * errors["plain"], errors


def peak(parameters: list[nn.Parameter], step: Callable[[], Tensor]) -> int:
    """Return the peak bytes of a forward and a backward, above the bytes before."""
    for parameter in parameters:
        parameter.grad = None
    with TensorMeter(torch.device("cpu"), parameters=parameters) as meter:
        step().backward()
    result = meter.result()
    return result.peak_bytes - result.base_bytes


def test_its_peak_is_one_gradient_and_a_chunk() -> None:
    """One vocabulary gradient whatever the number of chunks, two tensors of a chunk's logits, and below torch's own."""
    torch.manual_seed(0)
    words, width, tokens = 4096, 128, 256
    head, x = nn.Linear(width, words), torch.randn(tokens, width, requires_grad=True)
    labels = torch.randint(0, words, (tokens,))
    parameters, weight, logits = [*head.parameters()], words * width * 4, tokens * words * 4

    def torch_s_own(chunks: int) -> Tensor:
        options = nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=tokens // chunks)
        return F.linear_cross_entropy(x, head.weight, labels, linear_bias=head.bias, options=options, reduction="sum")

    def summed(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(head(z), y, reduction="sum")

    for chunks in (4, 8, 16):
        ours = peak(parameters, lambda n=chunks: chunked(summed, n)(x, labels))  # type: ignore[misc]
        assert ours <= weight + 2 * logits / chunks + 3 * tokens * width * 4
        assert ours <= peak(parameters, lambda n=chunks: torch_s_own(n))  # type: ignore[misc]
