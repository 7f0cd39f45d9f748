"""A step in the backward: the same weights, without all gradients at once; refused where it would be wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import (
    Accumulated,
    AsLoss,
    Cached,
    Checkpointed,
    Edition,
    MultiTaskModel,
    PerTask,
    Split,
    SummedLoss,
    Task,
    compare,
)
from mtl_accum.editions import InBackward
from mtl_accum.memory import TrainingStep
from mtl_accum.training.loop import NoMemoryLeftError, TrainConfig, Training

CPU = torch.device("cpu")
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "groups": lambda p: torch.optim.Adam([{"params": [q], "lr": 0.01 / (n + 1)} for n, q in enumerate(p)]),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


def network(width: int = 8, depth: int = 2) -> Any:
    torch.manual_seed(0)
    layers = [nn.Linear(3, width), *(part for _ in range(depth) for part in (nn.Linear(width, width), nn.Tanh()))]
    tasks = {name: Task(nn.Linear(width, 1), nn.MSELoss(), "y") for name in "ab"}
    return MultiTaskModel(nn.Sequential(*layers, nn.Dropout(0.2)), tasks, "x").double()


def batches(count: int = 5) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(8, 3, generator=generator, dtype=torch.float64) for _ in range(count)]
    return [{"x": x, "y": x.sum(1, keepdim=True)} for x in rows]


def train(
    edition: Edition, make: Callable[..., Any], **settings: Any
) -> tuple[dict[str, Any], MultiTaskModel, torch.optim.Optimizer] | None:
    net = network()
    optimizer = make(net.parameters())
    torch.manual_seed(1)
    run = Training(net, batches(), [edition], optimizer, TrainConfig(epochs=2, **settings), device=CPU)
    return run.run(), net, optimizer


IN_ONE_BACKWARD = [SummedLoss(), Split(), Split(heads_per_graph=2), Checkpointed(Split())]
IN_ONE_BACKWARD += [AsLoss(Split()), AsLoss(Cached(3)), AsLoss(Split(head_chunks=2))]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("edition", IN_ONE_BACKWARD, ids=repr)
def test_the_same_weights(edition: Edition, make: Callable[..., Any]) -> None:
    losses, net, optimizer = train(edition, make, step_in_backward=True)  # type: ignore[misc]
    expected, reference, other = train(edition, make)  # type: ignore[misc]
    assert losses == expected
    for name, value in reference.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name
    assert all(parameter.grad is None for parameter in net.parameters())
    assert optimizer.state_dict()["param_groups"] == other.state_dict()["param_groups"]
    assert not any(p._post_accumulate_grad_hooks for p in net.parameters() if p._post_accumulate_grad_hooks)


@pytest.mark.parametrize("edition", [SummedLoss(), Split()], ids=repr)
def test_gradients_are_never_all_there(edition: Edition) -> None:
    net = network(width=256, depth=6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    peaks = {}
    for name, way in (("after", edition), ("in", InBackward(edition, optimizer))):
        step = TrainingStep(net.trunk, net.tasks, batches(1)[0], optimizer, way)
        step()
        meter = step.tensor_meter()
        with meter:
            step()
        peaks[name] = meter.result()
    whole = sum(parameter.nbytes for parameter in net.parameters())
    assert peaks["after"].peak_bytes - peaks["in"].peak_bytes > 0.6 * whole


@pytest.mark.parametrize("edition", [PerTask(), Cached(2), Accumulated(Split(), 2), Checkpointed(PerTask())], ids=repr)
def test_editions_with_several_backwards_are_refused(edition: Edition) -> None:
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"from one backward; \w+ adds it up over several: use SummedLoss"):
        InBackward(edition, optimizer)


def test_other_refusals() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="every head in one piece; found head_chunks above 1"):
        InBackward(Split(head_chunks=2), optimizer)
    with pytest.raises(ValueError, match="updates one parameter at a time, but LBFGS needs the full gradient"):
        InBackward(Split(), torch.optim.LBFGS(net.parameters()))
    net.tasks["b"].head = net.tasks["a"].head
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="Linear.weight is shared by task 'a' and task 'b': use SummedLoss"):
        InBackward(Split(), optimizer).forward_backward(net.trunk, net.tasks, batches()[0])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    InBackward(SummedLoss(), optimizer).forward_backward(net.trunk, net.tasks, batches()[0])


@pytest.mark.parametrize(
    "settings", [{"clip_norm": 1.0}, {"accumulate": 2}, {"on_nan": "skip"}, {"precision": "fp16"}], ids=str
)
def test_what_needs_the_whole_gradient_is_refused(settings: dict[str, Any]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"step_in_backward: impossible with {name}={value}, which need the whole"):
        TrainConfig(epochs=1, step_in_backward=True, **settings)


def test_a_gradient_in_two_backwards_is_an_error() -> None:
    """Should an edition slip through the refusals."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    way = InBackward(SummedLoss(), optimizer)
    object.__setattr__(way, "edition", Accumulated(SummedLoss(), micro_batches=2))
    with pytest.raises(
        RuntimeError, match="a second gradient arrived for a parameter that was already updated in this step"
    ):
        way.forward_backward(net.trunk, net.tasks, batches()[0])


def test_out_of_memory_cannot_be_undone() -> None:
    from mtl_accum.editions._engine import listen
    from tests.training.injector import Injector

    with pytest.raises(NoMemoryLeftError) as error, listen(Injector(4, {1})):
        train(Split(), OPTIMIZERS["adamw"], step_in_backward=True)
    assert not error.value.undone


def test_side_by_side() -> None:
    net = network(width=512, depth=4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    editions = {"split": Split(), "in": InBackward(Split(), optimizer)}
    before, after = compare(net.trunk, net.tasks, batches(1)[0], optimizer=optimizer, editions=editions, steps=1)
    assert after.failure is None, after.failure
    assert after.gradient_difference == before.gradient_difference
    assert after.memory[0].peak_bytes < 0.8 * before.memory[0].peak_bytes
    assert after.memory[0].categories.gradients < before.memory[0].categories.gradients
    assert all(p.grad is None for p in net.parameters())


def test_fallbacks_that_are_not_used_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    net = network()
    arguments = net, batches(), [Split(), Cached(3)], torch.optim.SGD(net.parameters())
    Training(*arguments, TrainConfig(epochs=1), device=CPU)
    assert not caplog.records
    run = Training(*arguments, TrainConfig(epochs=1, step_in_backward=True), device=CPU)
    assert run.train_step.edition.edition == Split()  # type: ignore[attr-defined]
    (record,) = caplog.records
    assert record.getMessage() == (
        "step_in_backward=true: a half-done step cannot be rolled back, so nothing takes over if memory runs out; not "
        "used: Cached(chunk_size=3)"
    )
