"""A trunk that runs again: compared with its first pass in the first steps, refused where it is another one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mtl_accum import Accumulated, Cached, Checkpointed, Edition, Offloaded, PerTask, Split, SummedLoss
from mtl_accum.editions import ReplayError, always_comparing
from mtl_accum.editions._engine.replay._fingerprint import Fingerprint
from mtl_accum.verify import oracle
from mtl_accum.verify._difference import gradient_difference
from tests.editions.replayed import gradients, lambda_of, setting

AGAIN = [PerTask(), Cached(chunk_size=100), Cached(chunk_size=3), Checkpointed(Split())]
again = pytest.mark.parametrize("edition", AGAIN, ids=repr)


def count(net: Any, x: Any) -> Any:
    net.calls = getattr(net, "calls", 0) + 1
    net.picture, net.cache = x, {"last": x.detach()}
    return x


def drift(net: Any, x: Any) -> Any:
    net.state = getattr(net, "state", 0.0) + 0.01
    return x + net.state


def drift_of_one_sample(net: Any, x: Any) -> Any:
    net.state = getattr(net, "state", 0.0) + 1e-3
    shift = torch.zeros_like(x)
    shift[-1] = net.state
    return x + shift


def own_generator(net: Any, x: Any) -> Any:
    if not hasattr(net, "generator"):
        net.generator = torch.Generator().manual_seed(0)
    return x + torch.randn(x.shape, generator=net.generator, dtype=x.dtype)


def own_numpy_generator(net: Any, x: Any) -> Any:
    if not hasattr(net, "rng"):
        net.rng = np.random.default_rng(0)
    return x + net.rng.normal()


@again
@pytest.mark.parametrize("effect", [drift, drift_of_one_sample, own_generator, own_numpy_generator])
def test_hidden_state_is_refused(effect: Any, edition: Edition) -> None:
    name = type(edition).__name__
    with pytest.raises(ReplayError, match=rf"^{name}: the trunk's second pass .*; .*\. Split\(\) runs the trunk once$"):
        gradients(edition, *setting(effect))
    expected = gradients(SummedLoss(), *setting(effect))
    assert gradient_difference(gradients(Split(), *setting(effect)), expected) <= 1e-12


def test_the_message_names_the_attribute() -> None:
    with pytest.raises(ReplayError, match=r"it keeps state in attributes that changed since \(Net\.state\)"):
        gradients(PerTask(), *setting(drift))


@again
def test_attributes_that_keep_pictures_and_counts_are_harmless(edition: Edition) -> None:
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
def test_every_global_generator_is_replayed_and_ends_where_it_would(draw: str, edition: Any) -> None:
    if edition == Cached(chunk_size=3):
        return  # draws once a chunk
    net, tasks, batch = setting(DRAWS[draw])
    for seed in range(5):  # beyond the steps that are compared
        expected = gradients(SummedLoss(), net, tasks, batch, seed)
        ends = random.random(), np.random.rand(), torch.rand(1).item()
        assert gradient_difference(gradients(edition, net, tasks, batch, seed), expected) <= 1e-12
        assert (random.random(), np.random.rand(), torch.rand(1).item()) == ends


@again
def test_a_trunk_that_begins_to_draw_later_is_replayed_too(edition: Edition) -> None:
    """After the steps that are compared: the states of all generators are saved in every step."""
    switch = {"on": False}
    net, tasks, batch = setting(
        lambda net, x: x * (np.random.rand() * random.random() * np.random.randn() if switch["on"] else 1.0)
    )
    for _ in range(4):
        gradients(edition, net, tasks, batch)
    switch["on"] = True
    expected = gradients(oracle(edition), net, tasks, batch)
    assert gradient_difference(gradients(edition, net, tasks, batch), expected) <= 1e-12
    after = random.random(), np.random.rand()
    gradients(oracle(edition), net, tasks, batch)
    assert after == (random.random(), np.random.rand())


def divide(net: Any, x: Any) -> Any:
    return x.div_(3)


@pytest.mark.parametrize("edition", [PerTask(), Cached(100), Cached(3), Accumulated(PerTask(), 2)], ids=repr)
def test_a_trunk_that_writes_into_its_batch_is_refused_by_the_path(edition: Edition) -> None:
    with pytest.raises(ReplayError, match=r"writes into its batch \(batch\['x'\]\).*write into a copy, or use Split"):
        gradients(edition, *setting(divide))


@pytest.mark.parametrize(
    "edition", [Split(), Split(head_chunks=2), Accumulated(Split(), 2), Offloaded(Split())], ids=repr
)
def test_where_the_trunk_runs_once_it_may_write(edition: Edition) -> None:
    expected = gradients(SummedLoss(), *setting(divide))
    assert gradient_difference(gradients(edition, *setting(divide)), expected) <= 1e-12
    expected = gradients(SummedLoss(), *setting(divide, tasks=1))
    assert gradient_difference(gradients(PerTask(), *setting(divide, tasks=1)), expected) <= 1e-12


def test_only_the_first_steps_are_compared_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_loss_made_in_the_trunk_is_refused_by_cached() -> None:
    def remember(net: Any, x: Any) -> Any:
        net.balance = net.first(x).softmax(1).mean(0).square().sum()
        return x

    net, tasks, batch = setting(remember)
    tasks["balance"] = lambda z, b: net.balance
    with pytest.raises(RuntimeError, match="Cached: task 'balance': its loss was made in the trunk .* use PerTask"):
        gradients(Cached(chunk_size=3), net, tasks, batch)
    expected = gradients(SummedLoss(), net, tasks, batch)
    assert gradient_difference(gradients(PerTask(), net, tasks, batch), expected) <= 1e-12


def test_a_loss_that_needs_no_gradient_is_nobodys_fault() -> None:
    net, tasks, batch = setting()
    tasks |= {"watched": lambda z, b: z.detach().mean(), "constant": lambda z, b: torch.tensor(1.0)}
    expected = gradients(SummedLoss(), net, tasks, batch)
    assert gradient_difference(gradients(Cached(chunk_size=3), net, tasks, batch), expected) <= 1e-12


class InPlaceABN(nn.Module):
    """As the package of that name has it: no subclass of torch's."""

    def forward(self, x: Any) -> Any:
        return (x - x.mean(0)) / x.std(0)


def old_spectral_norm(net: Any) -> None:
    nn.utils.spectral_norm(net.first)


def new_spectral_norm(net: Any) -> None:
    nn.utils.parametrizations.spectral_norm(net.first)


def in_place_norm(net: Any) -> None:
    net.norm = InPlaceABN()


@pytest.mark.parametrize("edition", [Cached(3), Accumulated(Split(), 2)], ids=repr)
@pytest.mark.parametrize("change", [old_spectral_norm, new_spectral_norm, in_place_norm])
def test_what_changes_with_every_pass_is_refused_by_name(change: Any, edition: Edition) -> None:
    net, tasks, batch = setting()
    change(net)
    with pytest.raises(ValueError, match=r"trunk.*(has spectral normalisation|\(InPlaceABN\) uses batch statistics)"):
        edition.forward_backward(net, tasks, batch)
    net.eval()
    edition.forward_backward(net, tasks, batch)


@pytest.mark.parametrize("change", [old_spectral_norm, new_spectral_norm])
def test_spectral_norm_is_replayed(change: Any) -> None:
    net, tasks, batch = setting()
    change(net)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    expected = gradients(SummedLoss(), net, tasks, batch)
    ends = {name: buffer.clone() for name, buffer in net.named_buffers()}
    for edition in (PerTask(), Cached(100), Checkpointed(PerTask())):
        net.load_state_dict(before, strict=False)
        assert gradient_difference(gradients(edition, net, tasks, batch), expected) <= 1e-12
        assert all(torch.equal(buffer, ends[name]) for name, buffer in net.named_buffers())
