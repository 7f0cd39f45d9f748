"""Copies of `WithLoss`: complete if possible, and refused if a function still uses the original."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mtl_accum import MultiTaskModel, Split, Task
from mtl_accum.models import WithLoss
from tests.models.networks import Public, batch, given_tasks, gradients, model

every_copy = pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
REFUSED = "WithLoss: this is a copy, whose {} still uses parts of the original.*trunk=model.encode.*load_state_dict"


@every_copy
@pytest.mark.parametrize("given", [False, True])
def test_copies_are_whole(copied: Callable[..., Any], given: bool) -> None:
    net = Public()
    wrapped = given_tasks(net) if given else WithLoss(model(torch.float32), Split())
    data = {"x": torch.randn(4, 3), "labels": torch.tensor([0, 1, 1, 0])} if given else batch(torch.float32)
    other = copied(wrapped.eval())
    assert {id(p) for p in other.parameters()}.isdisjoint(map(id, wrapped.parameters()))
    loss, others = wrapped(data)["loss"], other(data)["loss"]
    assert torch.equal(loss, others)
    others.backward()
    assert [p.grad is not None for _, p in other.named_parameters()].count(True) > 2
    other.to(torch.float64)
    assert {p.dtype for p in other._original.parameters()} == {torch.float64}
    assert {p.dtype for p in other.parameters()} == {torch.float64}
    assert all(p.grad is None for p in wrapped.parameters())


NET, TEACHER = Public(), nn.Linear(4, 2).requires_grad_(False)
encoder = NET.encoder  # a global that is called like an attribute: `encode` names the attribute alone


def data() -> dict[str, Tensor]:
    return {"x": torch.randn(4, 3), "labels": torch.tensor([0, 1, 1, 0])}


def encode(net: Public, batch: dict[str, Tensor]) -> Tensor:
    return torch.tanh(net.encoder(batch["x"]))


def from_global(batch: Any) -> Tensor:
    return torch.tanh(NET.encoder(batch["x"]))


def towards_teacher(z: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (z.mean(1) - TEACHER(z).mean(1)).square().mean()


def tasks_of(net: Public) -> dict[str, Any]:
    return {"class": Task(net.classifier, nn.CrossEntropyLoss(), "labels"), "teacher": towards_teacher}


@every_copy
@pytest.mark.parametrize("trunk", ["method", "partial", "module"])
def test_models_that_can_be_copied(copied: Callable[..., Any], trunk: str) -> None:
    net = NET.eval()
    trunks = {
        "method": net.encode,
        "partial": functools.partial(encode, net),
        "module": MultiTaskModel(nn.Sequential(net.encoder, nn.Tanh()), tasks={"a": nn.Identity()}, inputs="x").trunk,
    }
    wrapped, fields = WithLoss(net, Split(), trunk=trunks[trunk], tasks=tasks_of(net)), data()
    other = copied(wrapped)
    other(fields)["loss"].backward()
    assert all(p.grad is None for p in wrapped.parameters())
    mine = gradients(other)
    wrapped(fields)["loss"].backward()
    assert all(torch.equal(mine[name], gradient) for name, gradient in gradients(wrapped).items())
    wrapped.zero_grad()
    copied(other)(fields)


def closures(net: Public) -> dict[str, Any]:
    weight = net.encoder.weight
    twice = Task(net.classifier, lambda output, labels: net.classifier.bias.sum() * output.sum(), "labels")
    dropped = Task(net.classifier, lambda output, labels: output.sum() * net.drop(output).sum(), "labels")
    return {
        "trunk": {"trunk": lambda batch: net.encoder(batch["x"])},
        "trunk ": {"trunk": lambda batch: batch["x"] @ weight.mT},
        "task 'class'": {"tasks": {"class": lambda z, batch: net.classifier(z).mean()}},
        "task 'both'": {"tasks": {"both": twice}},
        "task 'drop'": {"tasks": {"drop": dropped}},
    }


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("who", closures(Public()))
def test_a_copy_whose_functions_use_the_original(who: str, frozen: bool) -> None:
    net = Public()
    net.drop = nn.Dropout()
    net.requires_grad_(not frozen)
    given = {"trunk": net.encode, "tasks": tasks_of(net)} | closures(net)[who]
    wrapped = WithLoss(net, Split(), **given)
    with torch.no_grad():
        wrapped(data())
    other = copy.deepcopy(wrapped)
    for again in (other, other, copy.deepcopy(other), AveragedModel(wrapped)):
        with pytest.raises(RuntimeError, match=REFUSED.format(who.strip())):
            again(data())
    other.load_state_dict(wrapped.state_dict())
    shallow = copy.copy(wrapped)
    assert shallow(data(), return_loss=False)["outputs"].keys() == wrapped(data(), return_loss=False)["outputs"].keys()


def test_a_global_is_not_pickled() -> None:
    wrapped = WithLoss(NET, Split(), trunk=from_global, tasks=tasks_of(NET))
    other = pickle.loads(pickle.dumps(wrapped))
    with pytest.raises(RuntimeError, match=REFUSED.format("trunk")):
        other(data())


def test_an_average_of_weights_is_of_its_own() -> None:
    net = Public().eval()
    wrapped, fields = WithLoss(net, Split(), trunk=net.encode, tasks=tasks_of(net)), data()
    average = AveragedModel(wrapped)
    with torch.no_grad():
        before = average(fields)["loss"]
        net.encoder.weight.mul_(0.1)
        assert torch.equal(average(fields)["loss"], before) and not torch.equal(wrapped(fields)["loss"], before)


class Holds(nn.Module):
    """Lightning module that holds WithLoss, with its own method as trunk and parts that WithLoss does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Public()
        self.wrapped = WithLoss(self.net, Split(), trunk=self.encode, tasks=tasks_of(self.net))
        self.other = nn.Linear(2, 2)

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.tanh(self.net.encoder(batch["x"]))


@every_copy
@pytest.mark.parametrize("whole", [True, False])
def test_a_copy_of_a_module_that_holds_itself(copied: Callable[..., Any], whole: bool) -> None:
    held = Holds()
    other = copied(held).wrapped if whole else copied(held.wrapped)
    other(data())["loss"].backward()
    assert all(p.grad is None for p in held.parameters()) and all(p.grad is not None for p in other.parameters())


def test_copies_share_the_scaler_of_the_trainer() -> None:
    scaler = torch.amp.GradScaler("cpu")
    wrapped = WithLoss(model(), Split(), scale=scaler.get_scale)
    assert copy.deepcopy(wrapped)._options["scale"].__self__ is scaler
