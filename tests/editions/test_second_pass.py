"""A trunk that runs again: compared with its first pass in the first steps, refused where it is another one."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mtl_accum import Accumulated, Cached, Checkpointed, Offloaded, PerTask, Split, SummedLoss, Task
from mtl_accum._difference import gradient_difference
from mtl_accum.editions import ReplayError, always_comparing
from mtl_accum.editions._fingerprint import Fingerprint

AGAIN = [PerTask(), Cached(chunk_size=100), Cached(chunk_size=3), Checkpointed(Split())]
again = pytest.mark.parametrize("edition", AGAIN, ids=repr)


class Net(nn.Module):
    """A trunk of blocks, so that activation checkpointing finds them, with something on the way."""

    def __init__(self, effect=lambda net, x: x):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 6).double(), nn.Linear(6, 6).double()
        self.effect = effect

    def forward(self, batch):
        return self.last(torch.tanh(self.first(self.effect(self, batch["x"]))))


def setting(effect=lambda net, x: x, tasks=2):
    net = Net(effect)
    heads = {f"t{i}": Task(nn.Linear(6, 1).double(), nn.MSELoss(), "y") for i in range(tasks)}
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(7, n, generator=generator, dtype=torch.float64) for n in (4, 1))
    return net, heads, {"x": x, "y": y}


def gradients(edition, net, tasks, batch, seed=3):
    net.zero_grad()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    edition.forward_backward(net, tasks, batch)
    return {name: parameter.grad for name, parameter in net.named_parameters()}


def count(net, x):
    net.calls = getattr(net, "calls", 0) + 1
    net.picture, net.cache = x, {"last": x.detach()}
    return x


def drift(net, x):
    net.state = getattr(net, "state", 0.0) + 0.01
    return x + net.state


def drift_of_one_sample(net, x):
    net.state = getattr(net, "state", 0.0) + 1e-3
    shift = torch.zeros_like(x)
    shift[-1] = net.state
    return x + shift


def own_generator(net, x):
    if not hasattr(net, "generator"):
        net.generator = torch.Generator().manual_seed(0)
    return x + torch.randn(x.shape, generator=net.generator, dtype=x.dtype)


def own_numpy_generator(net, x):
    if not hasattr(net, "rng"):
        net.rng = np.random.default_rng(0)
    return x + net.rng.normal()


@again
@pytest.mark.parametrize("effect", [drift, drift_of_one_sample, own_generator, own_numpy_generator])
def test_hidden_state_is_refused(effect, edition):
    name = type(edition).__name__
    with pytest.raises(ReplayError, match=rf"^{name}: the trunk's second pass .*; .*\. Split\(\) runs the trunk once$"):
        gradients(edition, *setting(effect))
    expected = gradients(SummedLoss(), *setting(effect))
    assert gradient_difference(gradients(Split(), *setting(effect)), expected) <= 1e-12


def test_the_message_names_the_attribute():
    with pytest.raises(ReplayError, match=r"it keeps state in attributes that changed since \(Net\.state\)"):
        gradients(PerTask(), *setting(drift))


@again
def test_attributes_that_keep_pictures_and_counts_are_harmless(edition):
    expected = gradients(SummedLoss(), *setting(count))
    assert gradient_difference(gradients(edition, *setting(count)), expected) <= 1e-12


DRAWS = {
    "numpy": lambda net, x: x * np.random.rand(),
    "numpy, a number left over": lambda net, x: x * np.random.randn(),
    "Python": lambda net, x: x * random.random(),
    "all of them": lambda net, x: x * random.gauss(1, 0.1) * np.random.rand() * torch.rand(()),
}


@pytest.mark.parametrize("edition", [*AGAIN, Checkpointed(PerTask()), Accumulated(PerTask(), 1)], ids=repr)
@pytest.mark.parametrize("draw", DRAWS)
def test_every_global_generator_is_replayed_and_ends_where_it_would(draw, edition):
    if edition == Cached(chunk_size=3):
        return  # draws once a chunk
    net, tasks, batch = setting(DRAWS[draw])
    for seed in range(5):  # beyond the steps that are compared
        expected = gradients(SummedLoss(), net, tasks, batch, seed)
        ends = random.random(), np.random.rand(), torch.rand(1).item()
        assert gradient_difference(gradients(edition, net, tasks, batch, seed), expected) <= 1e-12
        assert (random.random(), np.random.rand(), torch.rand(1).item()) == ends


@again
def test_a_trunk_that_begins_to_draw_later_says_so_once(edition):
    switch = {"on": False}
    net, tasks, batch = setting(lambda net, x: x * (np.random.rand() if switch["on"] else 1.0))
    for _ in range(4):
        gradients(edition, net, tasks, batch)
    switch["on"] = True
    with pytest.raises(ReplayError, match="for the first time in step 5, .* run the step again"):
        gradients(edition, net, tasks, batch)
    if edition != Cached(chunk_size=3):
        expected = gradients(SummedLoss(), net, tasks, batch)
        assert gradient_difference(gradients(edition, net, tasks, batch), expected) <= 1e-12


def divide(net, x):
    return x.div_(3)


@pytest.mark.parametrize("edition", [PerTask(), Cached(100), Cached(3), Accumulated(PerTask(), 2)], ids=repr)
def test_a_trunk_that_writes_into_its_batch_is_refused_by_the_path(edition):
    with pytest.raises(ReplayError, match=r"writes into its batch \(batch\['x'\]\).*write into a copy, or use Split"):
        gradients(edition, *setting(divide))


@pytest.mark.parametrize(
    "edition", [Split(), Split(head_chunks=2), Accumulated(Split(), 2), Offloaded(Split())], ids=repr
)
def test_where_the_trunk_runs_once_it_may_write(edition):
    expected = gradients(SummedLoss(), *setting(divide))
    assert gradient_difference(gradients(edition, *setting(divide)), expected) <= 1e-12
    expected = gradients(SummedLoss(), *setting(divide, tasks=1))
    assert gradient_difference(gradients(PerTask(), *setting(divide, tasks=1)), expected) <= 1e-12


def test_only_the_first_steps_are_compared_unless_told(monkeypatch):
    made = []
    init = Fingerprint.__init__
    monkeypatch.setattr(Fingerprint, "__init__", lambda self, tree: made.append(1) or init(self, tree))
    net, tasks, batch = setting()
    seen = []
    for _ in range(5):
        made.clear()
        gradients(PerTask(), net, tasks, batch)
        seen.append(len(made))
    with always_comparing():
        gradients(PerTask(), net, tasks, batch)
    assert (seen, len(made)) == ([2, 2, 2, 0, 0], 2)
    made.clear()
    gradients(PerTask(), lambda_of(net), tasks, batch)
    assert not made, "a function around the same network is the same trunk"


def lambda_of(net):
    class Around:
        def __call__(self, batch):
            return net(batch)

        def zero_grad(self):
            net.zero_grad()

        def named_parameters(self):
            return net.named_parameters()

    return Around()


class TestFingerprint:
    @pytest.mark.parametrize(
        "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64], ids=str
    )
    def test_one_changed_sample_shows_and_rounding_does_not(self, dtype):
        z = torch.randn(64, 33, 5).to(dtype)
        first = Fingerprint({"z": z})
        rounded = (z * (1 + torch.finfo(dtype).eps * torch.randint(-1, 2, z.shape))).to(dtype)
        assert not first.differs(Fingerprint({"z": rounded}))
        other = z.clone()
        other[17] *= 0.7
        assert first.differs(Fingerprint({"z": other}))
        shifted = z.clone()
        shifted[17] += 0.3
        assert first.differs(Fingerprint({"z": shifted}))
        swapped = z[torch.randperm(64)]
        assert first.differs(Fingerprint({"z": swapped}))

    def test_of_odd_leaves(self):
        tree = (torch.arange(6), torch.tensor([True, False]), torch.tensor(2.0), 3, "a", None, torch.empty(0, 3))
        assert not Fingerprint(tree).differs(Fingerprint(tree))
        assert Fingerprint(tree).differs(Fingerprint((torch.arange(6) + 1, *tree[1:])))
        assert Fingerprint(tree).differs(Fingerprint((*tree[:3], 4, *tree[4:])))
        assert Fingerprint(torch.ones(2)).differs(Fingerprint(torch.ones(3)))
        nan = torch.tensor([[1.0, float("nan")], [1.0, 2.0]])
        assert not Fingerprint(nan).differs(Fingerprint(nan.clone()))
        assert Fingerprint(nan).differs(Fingerprint(nan.nan_to_num()))

    def test_channels_last_is_not_copied(self):
        z = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last)
        assert not Fingerprint(z).differs(Fingerprint(z.clone(memory_format=torch.preserve_format)))


def test_a_loss_made_in_the_trunk_is_refused_by_cached():
    def remember(net, x):
        net.balance = net.first(x).softmax(1).mean(0).square().sum()
        return x

    net, tasks, batch = setting(remember)
    tasks["balance"] = lambda z, b: net.balance
    with pytest.raises(RuntimeError, match="Cached: task 'balance': its loss was made in the trunk .* use PerTask"):
        gradients(Cached(chunk_size=3), net, tasks, batch)
    expected = gradients(SummedLoss(), net, tasks, batch)
    assert gradient_difference(gradients(PerTask(), net, tasks, batch), expected) <= 1e-12


def test_a_loss_that_needs_no_gradient_is_nobodys_fault():
    net, tasks, batch = setting()
    tasks |= {"watched": lambda z, b: z.detach().mean(), "constant": lambda z, b: torch.tensor(1.0)}
    expected = gradients(SummedLoss(), net, tasks, batch)
    assert gradient_difference(gradients(Cached(chunk_size=3), net, tasks, batch), expected) <= 1e-12


def test_a_second_backward_through_a_checkpointed_block():
    """As torch's own checkpoint has it: gradient penalties, GradNorm."""
    net, _, batch = setting()

    def task(z, b):
        loss = z.square().mean()
        torch.autograd.grad(loss, net.first.weight, retain_graph=True)
        return loss

    expected = gradients(SummedLoss(), lambda_of(net), {"t": task}, batch)
    assert gradient_difference(gradients(Checkpointed(SummedLoss()), net, {"t": task}, batch), expected) <= 1e-12
    task(checkpoint(net, batch, use_reentrant=False), batch).backward()


@pytest.mark.parametrize("edition", [Offloaded(Split()), Offloaded(Checkpointed(Split()))], ids=repr)
def test_lazy_modules_are_offloaded_too(edition):
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(3))
    edition.forward_backward(trunk, {"t": lambda z, b: z.square().mean()}, torch.randn(4, 6))
    assert trunk[0].weight.grad.abs().sum() > 0


class InPlaceABN(nn.Module):
    """As the package of that name has it: no subclass of torch's."""

    def forward(self, x):
        return (x - x.mean(0)) / x.std(0)


def old_spectral_norm(net):
    nn.utils.spectral_norm(net.first)


def new_spectral_norm(net):
    nn.utils.parametrizations.spectral_norm(net.first)


def in_place_norm(net):
    net.norm = InPlaceABN()


@pytest.mark.parametrize("edition", [Cached(3), Accumulated(Split(), 2)], ids=repr)
@pytest.mark.parametrize("change", [old_spectral_norm, new_spectral_norm, in_place_norm])
def test_what_changes_with_every_pass_is_refused_by_name(change, edition):
    net, tasks, batch = setting()
    change(net)
    with pytest.raises(ValueError, match=r"trunk.*(has spectral normalisation|\(InPlaceABN\) uses batch statistics)"):
        edition.forward_backward(net, tasks, batch)
    net.eval()
    edition.forward_backward(net, tasks, batch)


@pytest.mark.parametrize("change", [old_spectral_norm, new_spectral_norm])
def test_spectral_norm_is_replayed(change):
    net, tasks, batch = setting()
    change(net)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    expected = gradients(SummedLoss(), net, tasks, batch)
    ends = {name: buffer.clone() for name, buffer in net.named_buffers()}
    for edition in (PerTask(), Cached(100), Checkpointed(PerTask())):
        net.load_state_dict(before, strict=False)
        assert gradient_difference(gradients(edition, net, tasks, batch), expected) <= 1e-12
        assert all(torch.equal(buffer, ends[name]) for name, buffer in net.named_buffers())


def test_autocast_around_the_whole_call_is_that_of_the_forward_alone():
    """The head's loss in float32 has a backward of its own, which must not run under bfloat16."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square().mean()

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * 2 * (x @ torch.eye(x.shape[1])) / x.numel()  # a matrix product, which autocast would round

    def task(z, batch):
        with torch.autocast("cpu", enabled=False):
            return Square.apply(z.float())

    trunk, x = nn.Linear(5, 6), torch.randn(7, 5)
    with torch.autocast("cpu", torch.bfloat16):
        loss = task(trunk(x), x)
    loss.backward()
    expected, trunk.weight.grad = trunk.weight.grad, None
    for edition in (SummedLoss(), Split(), PerTask(), Cached(100), Checkpointed(Split())):
        trunk.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            edition.forward_backward(trunk, {"t": task}, x)
        torch.testing.assert_close(trunk.weight.grad, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("edition", [Split(), Cached(100), Accumulated(Split(), 2), Split(head_chunks=2)], ids=repr)
@pytest.mark.parametrize("allow", [False, True])
def test_a_loss_on_the_inputs_derivative_is_refused_in_words(allow, edition):
    trunk, head = nn.Linear(2, 6).double(), nn.Linear(6, 1).double()
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)

    def residual(z, batch):
        u = head(z)
        (slope,) = torch.autograd.grad(u.sum(), batch, create_graph=True, allow_unused=allow)
        return (0 if slope is None else slope.sum()) + u.square().mean()

    message = r"task 'pde': it differentiates with respect to what lies behind the representation .*PerTask\(\)"
    with pytest.raises(RuntimeError, match=message):
        edition.forward_backward(trunk, {"pde": residual}, x)
    trunk.weight.grad = None
    PerTask().forward_backward(trunk, {"pde": residual}, x)
    expected, trunk.weight.grad = trunk.weight.grad, None
    residual(trunk(x), x).backward()
    torch.testing.assert_close(trunk.weight.grad, expected, rtol=1e-12, atol=0)


def test_an_input_that_requires_a_gradient_gets_it():
    net, tasks, batch = setting()
    gradients_of = []
    for edition in (SummedLoss(), Split(), PerTask(), Cached(3), Accumulated(Split(), 2)):
        x = batch["x"].clone().requires_grad_()
        edition.forward_backward(net, tasks, batch | {"x": x})
        gradients_of.append(x.grad)
    for other in gradients_of[1:]:
        torch.testing.assert_close(other, gradients_of[0], rtol=1e-10, atol=1e-14)
