"""A list of optimizers is one optimizer to everything that takes `optimizer=`; one that needs a closure is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mtl_accum import MultiTaskModel, Split, SummedLoss, Task, compare, plan
from mtl_accum._optimizers import JointOptimizer, joined, steppable
from mtl_accum.jobs import Experiment
from mtl_accum.memory import TrainingStep
from mtl_accum.prediction import predict
from mtl_accum.training.checkpoint import collect, restore
from mtl_accum.training.loop import TrainConfig, Training
from mtl_accum.verify import without_a_trace
from tests.everything import everything

CPU = torch.device("cpu")
ADAMW, SGD = torch.optim.AdamW, torch.optim.SGD


def model() -> MultiTaskModel:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(3, 6), nn.Tanh())
    return MultiTaskModel(trunk, {name: Task(nn.Linear(6, 1), nn.MSELoss(), "y") for name in "ab"}, "x").double()


def batch(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    return {"x": x, "y": x.sum(1, keepdim=True)}


class Batches:
    def train(self) -> list[Any]:
        return [batch()]

    test = train


def experiment(net: Any, make_optimizer: Any) -> Any:
    return Experiment(model=net, data=Batches(), device="cpu", seed=0, optimizer=make_optimizer)


def two(net: Any) -> list[Any]:
    return [ADAMW(net.trunk.parameters(), lr=0.05), SGD(net.tasks.parameters(), lr=0.1, momentum=0.9)]


def by_hand(net: Any, optimizers: Any, steps: Any) -> None:
    for number in range(steps):
        SummedLoss().forward_backward(net.trunk, net.tasks, batch(number))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def train(net: Any, optimizer: Any, steps: int = 4, **settings: Any) -> Any:
    run = Training(
        net, [batch(n) for n in range(steps)], [Split()], optimizer, TrainConfig(epochs=1, **settings), device=CPU
    )
    run.run()
    return run


def assert_same_weights(net: Any, other: Any) -> None:
    for name, value in other.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-12, atol=1e-12)


def test_training_steps_with_both() -> None:
    net, expected = model(), model()
    train(net, two(net))
    by_hand(expected, two(expected), 4)
    assert_same_weights(net, expected)


@pytest.mark.parametrize(
    "settings",
    [{"clip_norm": 1e9}, {"on_nan": "skip"}, {"step_in_backward": True}, {"warmup_steps": 1}],
    ids=lambda settings: next(iter(settings)),
)
def test_what_looks_at_an_optimizer_finds_one(settings: Any) -> None:
    net, expected = model(), model()
    train(net, two(net), **settings)
    by_hand(expected, two(expected), 4)
    assert_same_weights(net, expected)


def test_a_scheduler_moves_the_rates_of_both() -> None:
    net = model()
    both = two(net)
    train(net, both, scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5))
    assert [each.param_groups[0]["lr"] for each in both] == pytest.approx([0.05 / 16, 0.1 / 16])


def test_a_checkpoint_of_both() -> None:
    net, expected = model(), model()
    before = two(net)
    by_hand(net, before, 2)
    tensors, values = collect(net, joined(before), {})
    tensors = {name: value.clone() for name, value in tensors.items()}
    fresh = model()
    after = two(fresh)
    restore(fresh, joined(after), tensors, values)
    by_hand(net, before, 2)
    by_hand(fresh, after, 2)
    by_hand(expected, two(expected), 2)
    assert_same_weights(fresh, net)
    with pytest.raises(ValueError, match="expected 1 parameter groups, found 2"):
        JointOptimizer([ADAMW(fresh.parameters())]).load_state_dict(joined(before).state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_step_by_themselves(copied: Any) -> None:
    net, expected = model(), model()
    SummedLoss().forward_backward(net.trunk, net.tasks, batch())
    other, optimizer = copied((net, joined(two(net))))
    for parameter, own in zip(net.parameters(), other.parameters(), strict=True):
        own.grad = parameter.grad
    optimizer.step()
    by_hand(expected, two(expected), 1)
    assert_same_weights(other, expected)
    assert_same_weights(net, model())


def test_it_is_put_back_bit_for_bit() -> None:
    net = model()
    optimizer = joined(two(net))
    step = TrainingStep(net.trunk, net.tasks, batch(), optimizer, Split())
    for _ in range(2):  # without state, then with it
        before = everything(net, optimizer)
        with without_a_trace(step):
            step()
            step()
        after = everything(net, optimizer)
        assert len(before) == len(after)
        assert all(map(torch.equal, before, after))
        step()


def test_predict_plan_and_compare_count_both_states() -> None:
    net = model()
    parts = net.trunk, net.tasks, batch()
    without, of_both = (predict(*parts, optimizer=o, edition=Split(), device="cpu") for o in (None, two(net)))
    trunk, heads = (sum(p.nbytes for p in part.parameters()) for part in (net.trunk, net.tasks))
    counters = 4 * len(list(net.trunk.parameters()))  # AdamW's step counters
    assert without.categories.optimizer_state == 0
    assert of_both.categories.optimizer_state == 2 * trunk + heads + counters
    before = everything(net, joined(two(net)))
    assert (
        plan(*parts, optimizer=two(net), budget="1MiB").peak.categories.optimizer_state == 2 * trunk + heads + counters
    )
    assert all(map(torch.equal, before, everything(net, joined(two(net)))))
    (row,) = compare(*parts, optimizer=tuple(two(net)), editions={"split": Split()}, steps=1)
    assert row.failure is None
    assert row.memory[0].categories.optimizer_state == 2 * trunk + heads + counters


class Searching(SGD):  # type: ignore[misc, valid-type]
    """Needs a closure, as LBFGS does."""

    def step(self, closure: Any) -> Any:
        return super().step(closure)


NO_CLOSURE = r"optimizer: (LBFGS|Searching) needs a closure, .* use an optimizer whose step\(\) needs none"


@pytest.mark.parametrize(
    "use",
    [
        lambda net, optimizer: predict(net.trunk, net.tasks, batch(), optimizer=optimizer, edition=Split()),
        lambda net, optimizer: plan(net.trunk, net.tasks, batch(), optimizer=optimizer, budget="1MiB"),
        lambda net, optimizer: compare(net.trunk, net.tasks, batch(), optimizer=optimizer),
        lambda net, optimizer: train(net, optimizer),
        lambda net, optimizer: experiment(net, lambda parameters: optimizer).build_optimizer(),
    ],
    ids=["predict", "plan", "compare", "train", "command line"],
)
@pytest.mark.parametrize("kind", [torch.optim.LBFGS, lambda p: [SGD(p), Searching([torch.ones(1)])]])
def test_an_optimizer_that_needs_a_closure_is_refused_in_words(use: Callable[..., Any], kind: Any) -> None:
    net = model()
    with pytest.raises(ValueError, match=NO_CLOSURE):
        use(net, kind(list(net.parameters())))


@pytest.mark.parametrize(
    ("optimizer", "error", "message"),
    [
        ("adamw", TypeError, "optimizer must be an optimizer of torch, a list of them, or None; found str"),
        ([SGD([torch.ones(1)]), 3], TypeError, "found int in a list"),
        ([SGD([torch.ones(1)])] * 2, ValueError, "found one of them twice"),
    ],
)
def test_what_is_no_optimizer(optimizer: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        steppable(optimizer)
    assert joined([]) is None


def test_the_command_line_takes_a_function_that_returns_a_list() -> None:
    net = model()

    def by_dimensions(parameters: Any) -> list[Any]:
        parameters = list(parameters)
        matrices, rest = ([p for p in parameters if (p.dim() > 1) is wide] for wide in (True, False))
        return [ADAMW(matrices, lr=0.05), SGD(rest, lr=0.1)]

    optimizer = experiment(net, by_dimensions).build_optimizer()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.1]
    for nothing in ([], None):  # type: ignore[var-annotated]
        with pytest.raises(ValueError, match="must make an optimizer of torch or a list of them"):
            experiment(net, lambda parameters, nothing=nothing: nothing).build_optimizer()


def test_an_optimizer_with_a_scheduler_can_still_be_stepped() -> None:
    """A scheduler replaces `optimizer.step` by a function whose signature has `self`."""
    net = model()
    optimizer = SGD(net.parameters(), lr=0.1)
    torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    assert steppable(optimizer) is optimizer
    needs_closure = torch.optim.LBFGS(net.parameters())
    torch.optim.lr_scheduler.CosineAnnealingLR(needs_closure, 10)
    with pytest.raises(ValueError, match=NO_CLOSURE):
        steppable(needs_closure)
