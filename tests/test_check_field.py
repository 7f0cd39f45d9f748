"""`check` on what is common in the field and hard to judge: state, traces, float32 inside, gradients on the side."""

from __future__ import annotations

import collections
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mtl_accum import Accumulated, Cached, PerTask, Split, SummedLoss, Task, check
from mtl_accum._check import examine
from mtl_accum._trial import leaves_reached

N = 7


def batch(samples=N):
    torch.manual_seed(1)
    return {
        "x": torch.rand(samples, 8) * 255,
        "y": torch.randn(samples, 8),
        "z": torch.randn(samples, 8),
        "mask": torch.rand(samples, 8) > 0.5,
    }


def tasks(loss=None):
    torch.manual_seed(2)
    return {
        "y": Task(nn.Linear(8, 8), loss or nn.MSELoss(), "y", count=None if loss is None else len_of),
        "z": Task(nn.Linear(8, 8), nn.MSELoss(), "z"),
    }


def len_of(b):
    return len(b["x"])


class Trunk(nn.Module):
    """Two linear layers around something odd, on inputs of about 1."""

    def __init__(self, odd=None, key="x"):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.odd, self.last = nn.Linear(8, 8), odd or nn.Identity(), nn.Linear(8, 8)

    def forward(self, b):
        return self.last(self.odd(torch.tanh(self.first(b["x"] / 255))))


# What keeps state, by every way that there is of keeping it.


class WritesIntoBatch(Trunk):
    def forward(self, b):
        return self.last(self.first(b["x"].div_(255)))


class ViewsAndWrites(Trunk):
    def forward(self, b):
        b["x"][:, :4] *= 0.9
        return super().forward(b)


class PopsFromBatch(Trunk):
    def forward(self, b):
        scale = b.pop("scale", None)
        return super().forward(b) if scale is None else super().forward(b) * scale[:, None]


class Attribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = None

    def forward(self, x):
        y = x if self.last is None or self.last.shape != x.shape else x + 0.5 * self.last
        self.last = y.detach()
        return y


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(8)

    def forward(self, x):
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - self.mean


class Counter(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class Queue(nn.Module):
    def __init__(self):
        super().__init__()
        self.queue = collections.deque(maxlen=3)

    def forward(self, x):
        y = x + sum(entry.sum() for entry in self.queue)
        self.queue.append(x.detach())
        return y


class OwnGenerator(nn.Module):
    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def forward(self, x):
        noise = self.generator.random() if not isinstance(self.generator, torch.Generator) else None
        return x * (torch.rand((), generator=self.generator) if noise is None else float(noise))


def with_closure():
    state = {"calls": 0}
    trunk = Trunk()

    def run(b):
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
def test_hidden_state_is_put_back_and_found(kind):
    trunk, heads, data = STATE[kind](), tasks(), batch()
    before = trunk(data)
    trunk = STATE[kind]()
    editions = {"split": Split(), "per_task": PerTask(), "cached": Cached(4), "pieces": Accumulated(Split(), 3)}
    result = check(trunk, heads, data, editions=editions)
    assert torch.equal(trunk(data), before)  # as if nobody had looked
    assert result.editions["split"].verdict == "exact"
    for name in ("per_task", "cached", "pieces"):
        assert result.editions[name].verdict in ("DIFFERS", "failed"), name
        if result.editions[name].verdict == "DIFFERS":
            assert "a second pass of the trunk differs from the first" in result.editions[name].reason


@pytest.mark.parametrize("kind", [WritesIntoBatch, ViewsAndWrites])
def test_a_batch_that_is_written_into_is_copied_for_every_run(kind):
    data = batch()
    before = data["x"].clone()
    trunk, heads = kind(), tasks()
    result = check(trunk, heads, data, editions={"split": Split(), "per_task": PerTask(), "cached": Cached(4)})
    assert torch.equal(data["x"], before)
    assert result.editions["split"].passed()
    for name in ("per_task", "cached"):
        edition = result.editions[name]
        assert edition.verdict in ("DIFFERS", "failed")
        assert edition.failure or "the trunk writes into its batch" in edition.reason


def test_what_a_trunk_takes_out_of_the_batch_is_there_again():
    data = batch() | {"scale": torch.rand(N)}
    result = check(PopsFromBatch(), tasks(), data, editions={"split": Split()})
    assert set(data) == {"x", "y", "z", "mask", "scale"}
    assert result.passed()


# What an edition must not be passed with, whatever the network rounds to.


class Rms(nn.Module):
    """Computes in float32 inside, as the norm of Llama, T5, Mistral, Qwen and Gemma does."""

    def __init__(self, inside=torch.float32):
        super().__init__()
        self.weight, self.inside = nn.Parameter(torch.ones(8)), inside

    def forward(self, x):
        h = x.to(self.inside)
        return self.weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class OneWrong:
    """The right gradient, but for one parameter's."""

    def __init__(self, parameters, factor, number=None):
        self.parameters, self.factor, self.number = parameters, factor, number

    def forward_backward(self, trunk, tasks, batch):
        losses = Split().forward_backward(trunk, tasks, batch)
        owned = [p for module in (trunk, *tasks.values()) for p in module.parameters() if p.grad is not None]
        chosen = min(owned, key=lambda p: float(p.grad.norm())) if self.number is None else owned[self.number]
        chosen.grad = None if self.factor is None else chosen.grad * self.factor
        return losses


SOUND = {"per_task": PerTask(), "split": Split(), "cached": Cached(4), "pieces": Accumulated(Split(), 3)}
INSIDE = {
    "own precision": lambda: Trunk(),
    "float32 inside": lambda: Trunk(nn.Sequential(Rms(), nn.Linear(8, 8), Rms())),
    "dropout": lambda: Trunk(nn.Dropout(0.3)),
    "noise": lambda: Trunk(Noise()),
}


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


@pytest.mark.parametrize("network", INSIDE)
def test_sound_editions_pass(network):
    result = check(INSIDE[network](), tasks(), batch(), editions=SOUND)
    assert {name: edition.verdict for name, edition in result.editions.items()} == dict.fromkeys(SOUND, "exact")


@pytest.mark.parametrize("network", INSIDE)
@pytest.mark.parametrize(("factor", "number"), [(1.01, 0), (1.001, 1), (2.0, None), (0.5, None), (None, 0)], ids=str)
def test_wrong_editions_never_pass(network, factor, number):
    result = check(INSIDE[network](), tasks(), batch(), editions={"wrong": OneWrong([], factor, number)})
    assert result.editions["wrong"].verdict == "DIFFERS"


def test_rounding_is_measured_where_a_difference_exceeds_the_bound():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(5, 8), Rms(), nn.Linear(8, 8), Rms())
    heads = {f"t{i}": Task(nn.Linear(8, 3), nn.MSELoss(), lambda b: b[:, :3]) for i in range(3)}
    result = check(trunk, heads, torch.randn(8, 5))
    double = result.editions["per_task"].double
    assert result.passed()
    assert 1e-12 < double.gradients < double.rounding < 1e-5


def before_batch_norm():
    """A bias whose true gradient is 0, in closures: there is no float64 to decide by."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    heads = [nn.Conv2d(8, 2, 1) for _ in range(3)]
    losses = {f"t{i}": lambda z, b, i=i: (100 * (heads[i](z) - 1)).pow(2).mean() for i in range(3)}
    return lambda b: trunk(b), losses, torch.rand(4, 3, 12, 12)


def test_a_gradient_that_is_truly_zero_is_no_error():
    result = check(*before_batch_norm(), editions={"per_task": PerTask(), "split": Split()})
    assert all(edition.double is None for edition in result.editions.values())
    assert result.passed()
    assert max(edition.own.gradients for edition in result.editions.values()) > 1e-5  # what was called wrong


def test_16_bit_alone_decides_nothing():
    trunk, heads, data = Trunk().bfloat16(), tasks(), batch()
    heads = {name: task.bfloat16() for name, task in heads.items()}
    data = {name: value.bfloat16() for name, value in data.items()}
    result = check(lambda b: trunk(b), heads, data, editions={"split": Split(), "wrong": OneWrongOf(trunk)})
    assert result.editions["split"].verdict == "not decided"
    assert "torch.bfloat16 is too large" in result.editions["split"].undecided
    assert not result.editions["split"].passed()
    assert result.editions["wrong"].verdict == "DIFFERS"
    assert "not decided" in str(result)


class OneWrongOf:
    def __init__(self, module):
        self.module = module

    def forward_backward(self, trunk, tasks, batch):
        losses = SummedLoss().forward_backward(trunk, tasks, batch)
        self.module.first.weight.grad *= 2
        return losses


def test_random_numbers_that_cannot_be_turned_off_leave_pieces_undecided():
    class Shuffles(nn.Module):
        def forward(self, x):
            return x + x[torch.randperm(len(x))]

    result = check(Trunk(Shuffles()), tasks(), batch(), editions={"split": Split(), "pieces": SOUND["pieces"]})
    assert result.editions["split"].verdict == "exact"
    assert result.editions["pieces"].verdict == "not decided"


# What lies outside of modules.


def test_all_leaves_that_the_losses_reach_are_compared_and_left_alone():
    torch.manual_seed(0)
    trunk, head, log_variance = nn.Linear(8, 16), nn.Linear(16, 1), nn.Parameter(torch.zeros(()))
    scales = [torch.ones(1, requires_grad=True)]
    x = torch.randn(8, 8, requires_grad=True)
    parameters = [*trunk.parameters(), *head.parameters(), log_variance]
    optimizers = [torch.optim.SGD(parameters, lr=0.1), torch.optim.LBFGS(scales)]

    def loss(z, b):
        return torch.exp(-log_variance) * (scales[0] * head(z)).square().mean() + log_variance

    def times(tensor_of, factor):
        class Wrong:
            def forward_backward(self, trunk, tasks, batch):
                losses = Split().forward_backward(trunk, tasks, batch)
                tensor = tensor_of(batch)
                tensor.grad = None if factor is None else tensor.grad * factor
                return losses

        return Wrong()

    outside = {"variance": lambda b: log_variance, "scale": lambda b: scales[0], "input": lambda b: b["x"]}
    editions = {f"{name} {factor}": times(of, factor) for name, of in outside.items() for factor in (100, 1.01, None)}
    log_variance.grad = torch.full((), 3.0)
    parts = (lambda b: trunk(b["x"])), {"t": loss}, {"x": x}
    for optimizer in (None, optimizers, optimizers[0]):
        result = check(*parts, optimizer=optimizer, editions={**editions, "split": Split(), "per_task": PerTask()})
        verdicts = {name: edition.verdict for name, edition in result.editions.items()}
        assert verdicts == dict.fromkeys(editions, "DIFFERS") | {"split": "exact", "per_task": "exact"}
    assert "log_variance" in result.editions["variance 100"].reason
    assert "batch['x']" in result.editions["input 1.01"].reason
    assert result.editions["variance None"].missing == ("log_variance",)
    assert log_variance.grad == 3.0 and x.grad is None and scales[0].grad is None
    assert all(p.grad is None for p in parameters[:-1])
    assert {id(leaf) for leaf in leaves_reached(*parts)} == {id(p) for p in (*parameters, *scales)}


def test_parameters_of_every_optimizer_count_as_trained():
    spare = nn.Linear(2, 2)
    optimizers = [torch.optim.SGD([spare.weight], lr=0.1), torch.optim.SGD([spare.bias], lr=0.1)]
    result = check(Trunk(), tasks(), batch(), optimizer=optimizers, editions={"split": Split()})
    assert len(result.idle) == 2


def test_random_numbers_of_numpy_and_python_are_put_back():
    trunk, heads = Trunk(), tasks(lambda out, y: F.mse_loss(out, y) * (random.random() + np.random.rand()))
    data = batch()
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    assert check(trunk, heads, data, editions={"split": Split()}).passed()
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])


# What is wrong in pieces or in a replay, and nobody declared.


class Inject(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, loss):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, torch.ones((), dtype=gradient.dtype)


class Injected(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 8)

    def forward(self, x):
        p = self.gate(x).softmax(-1)
        return Inject.apply(p * x, 4 * p.mean(0).square().sum())


class Codebook(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class OwnNorm(nn.Module):
    def forward(self, x):
        return (x - x.mean(0)) / (x.std(0, correction=0) + 1e-1)


class Keeps(nn.Module):
    """A buffer of the batch's shape."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.zeros(1, 8))

    def forward(self, x):
        self.kept = x.detach()
        return x


def summed(out, y):
    return (out - y).square().sum()


def dice(out, y):
    p, y = out.sigmoid(), (y > 0).to(out.dtype)
    return 1 - 2 * (p * y).sum() / (p.sum() + y.sum())


def hardest(out, y):
    losses = (out - y).square().flatten()
    return losses.topk(max(1, len(losses) // 3)).values.mean()


def coupled_gradient(out, y):
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
def test_what_nobody_declared_does_not_pass(kind, dropout):
    make, loss, editions, reason = UNDECLARED[kind]
    trunk = make()
    trunk.last = nn.Sequential(nn.Dropout(dropout), trunk.last)
    result = check(trunk, tasks(loss), batch(), editions={**editions, "split": Split()})
    assert result.editions["split"].verdict == "exact"
    for name in editions:
        edition = result.editions[name]
        assert edition.verdict == "DIFFERS", name
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(edition.reason)


# Rows, always.


class Raises:
    def __init__(self, error):
        self.error = error

    def forward_backward(self, trunk, tasks, batch):
        raise self.error


def test_failures_and_refusals_are_rows():
    def bad(b):
        if len(b["x"]) < N:
            raise ValueError("reshape: expected 7 rows")  # the network's own words, no edition's
        return trunk(b)

    trunk = Trunk()
    editions = {
        "error": Raises(RuntimeError("one\ntwo")),
        "memory": Raises(torch.OutOfMemoryError("x" * 9999)),
        "refused": Raises(ValueError("not for this model")),
        "pieces": Accumulated(Split(), 2),
        "nothing": NoLosses(),
        "split": Split(),
    }
    result = check(bad, tasks(), batch(), editions=editions)
    verdicts = ["failed", "failed", "refused", "failed", "DIFFERS", "exact"]
    assert [edition.verdict for edition in result.editions.values()] == verdicts
    assert result.editions["error"].failure == "RuntimeError: one two"
    assert len(result.editions["memory"].failure) < 400
    assert not result.passed() and not result.editions["error"].passed()
    assert "pieces: ValueError: reshape: expected 7 rows" in str(result)


class NoLosses:
    def forward_backward(self, trunk, tasks, batch):
        return {}


def test_features_kept_by_a_hook():
    kept = {}
    trunk = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    trunk[1].register_forward_hook(lambda module, inputs, output: kept.update(h=output))
    heads = {**tasks(), "mid": lambda z, b: kept["h"].square().mean()}
    result = check(lambda b: trunk(b["x"]), heads, batch())
    verdicts = {name: edition.verdict for name, edition in result.editions.items()}
    assert verdicts["per_task"] == "exact" and verdicts["split"] == verdicts["accumulated"] == "failed"
    assert verdicts["cached"] in ("DIFFERS", "failed")
    assert kept == {}


def test_absent_tasks_are_named():
    heads = {**tasks(), "misspelt": Task(nn.Linear(8, 8), nn.MSELoss(), "why")}
    result = check(Trunk(), heads, batch(), editions={"split": Split()})
    assert result.absent == ("misspelt",)
    assert result.passed()
    assert "absent from this batch, so not checked: task 'misspelt'" in str(result)


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5, 6, 7, 8, 16, 30])
def test_default_pieces_are_unequal(samples):
    result = examine(Trunk(), tasks(), batch(samples))
    assert result.passed()
    from mtl_accum._check import _default_editions

    size = _default_editions(batch(samples))["cached"].chunk_size
    assert samples < 3 or 0 < samples % size < size


def test_examine_prints_nothing(capsys):
    examine(Trunk(), tasks(), batch(), editions={"split": Split()})
    assert capsys.readouterr().out == ""
