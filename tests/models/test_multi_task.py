"""`Task` and `MultiTaskModel`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from mtl_accum import Accumulated, Cached, MultiTaskModel, Split, SummedLoss, Task
from mtl_accum.verify._difference import gradient_difference

ODD_NAMES = ["", "a.b", "keys", "type", "forward", "_keys", "two words", "100%", "é", "weight", "a%2Eb"]


def task(**changes: Any) -> Task:
    return Task(**{"head": nn.Linear(4, 3), "loss": nn.CrossEntropyLoss(), "target": "y", **changes})


def test_weight_is_part_of_the_loss() -> None:
    z, batch = torch.randn(5, 4), {"y": torch.tensor([0, 1, 2, 0, 1])}
    one = task()
    assert torch.equal(task(head=one.head, weight=0.25)(z, batch), 0.25 * one(z, batch))


def test_count_is_the_number_of_samples_by_default() -> None:
    batch = {"y": torch.tensor([0, -100, 2])}
    assert task(loss=nn.MSELoss()).count(batch) == 3
    assert task().count(batch) == 2  # a cross-entropy states its own
    assert task(count=lambda b: (b["y"] != -100).sum()).count(batch) == 2
    assert task(target=lambda b: (b["y"], b["y"])).count(batch) == 3
    assert task().count({"x": batch["y"]}) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": 3}, "head must be callable, found 3"),
        ({"loss": "mse"}, "loss must be callable, found 'mse'"),
        ({"weight": "big"}, "weight must be a number, .* found 'big'"),
    ],
)
def test_task_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        task(**change)


def model() -> MultiTaskModel:
    torch.manual_seed(0)
    return MultiTaskModel(nn.Linear(2, 4), {name: task() for name in ODD_NAMES}, "x")


def test_any_string_is_a_name() -> None:
    tasks = model().tasks
    assert isinstance(tasks, Mapping)
    assert list(tasks) == list(tasks.keys()) == ODD_NAMES
    assert "a.b" in tasks
    assert "b" not in tasks
    assert len({id(tasks[name]) for name in ODD_NAMES}) == len(ODD_NAMES)
    assert tasks == tasks and hash(tasks) != hash(model().tasks)  # noqa: PLR0124  modules compare by identity


def test_state_travels() -> None:
    first, second = model(), model()
    nn.init.zeros_(second.tasks["a.b"].head.weight)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.tasks["a.b"].head.weight, first.tasks["a.b"].head.weight)
    assert list(pickle.loads(pickle.dumps(first)).tasks) == ODD_NAMES
    assert {id(m) for m in first.modules()} >= {id(t) for t in first.tasks.values()}


def test_goes_straight_into_an_edition() -> None:
    net, batch = model(), {"x": torch.randn(6, 2), "y": torch.randint(0, 3, (6,))}
    gradients = []
    for edition in (SummedLoss(), Split()):
        net.zero_grad()
        assert list(edition.forward_backward(net.trunk, net.tasks, batch)) == ODD_NAMES
        gradients.append({name: parameter.grad for name, parameter in net.named_parameters()})
    assert gradient_difference(gradients[1], gradients[0]) <= 1e-5


def test_forward_gives_every_output() -> None:
    outputs = model()({"x": torch.randn(6, 2)})
    assert list(outputs) == ODD_NAMES
    assert outputs["keys"].shape == (6, 3)


def test_inputs_may_be_a_callable() -> None:
    net = MultiTaskModel(nn.Linear(2, 4), {"t": task()}, lambda batch: batch[0])
    assert net([torch.randn(6, 2)])["t"].shape == (6, 3)


class Both(nn.Module):
    """A trunk with two arguments; a second one may be a nesting."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 4)

    def forward(self, x: Tensor, *, scale: Tensor | float = 1.0, more: tuple[Tensor] | None = None) -> Tensor:
        assert more is None or isinstance(more, tuple | dict)
        return self.linear(x * scale)


class Positional(Both):
    def forward(self, x: Tensor, scale: Tensor | float = 1.0, more: tuple[Tensor] | None = None) -> Tensor:
        return super().forward(x, scale=scale, more=more)


def doubled(batch: dict[str, Tensor]) -> Tensor:
    return 2 * batch["x"]


INPUTS = [
    (Both, {"x": "x", "scale": "s"}),
    (Positional, ("x", "s")),
    (Positional, ["x", "s"]),
    (Positional, OmegaConf.create(["x", "s"])),
    (Both, OmegaConf.create({"x": "x", "scale": "s"})),
    (Both, {"x": lambda b: b["x"], "scale": "s", "more": ("x", {"s": "s"})}),
    (Positional, ("x", "s", {"a": "x"})),
]


@pytest.mark.parametrize(("trunk", "inputs"), INPUTS, ids=range(len(INPUTS)))
def test_inputs_may_be_keywords_or_positions(trunk: type[Any], inputs: Any) -> None:
    net = MultiTaskModel(trunk(), {"t": task()}, inputs)
    batch = {"x": torch.randn(6, 2), "s": torch.rand(6, 1), "y": torch.randint(0, 3, (6,))}
    expected = net.tasks["t"].head(net.trunk.module.linear(batch["x"] * batch["s"]))
    assert torch.equal(net(batch)["t"], expected)
    assert_same_gradients_in_pieces(net, batch)


def assert_same_gradients_in_pieces(net: MultiTaskModel, batch: dict[str, Tensor]) -> None:
    gradients = []
    for edition in (SummedLoss(), Cached(2), Accumulated(Split(), 3)):
        net.zero_grad()
        edition.forward_backward(net.trunk, net.tasks, batch)
        gradients.append({name: parameter.grad for name, parameter in net.named_parameters()})
    assert max(gradient_difference(one, gradients[0]) for one in gradients[1:]) <= 1e-5


def test_inputs_travel() -> None:
    net = MultiTaskModel(Both(), {"t": task()}, OmegaConf.create({"x": "x", "more": ["x"]}))
    net.trunk._inputs["scale"] = doubled
    batch = {"x": torch.randn(6, 2)}
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert torch.equal(other(batch)["t"], net(batch)["t"])
        assert type(other.trunk._inputs["more"]) is tuple


@pytest.mark.parametrize("inputs", ["z", {"x": "z"}, ("x", "z"), {"x": ("x", "z")}])
def test_a_missing_key_is_named(inputs: Any) -> None:
    net = MultiTaskModel(Both(), {"t": task()}, inputs)
    with pytest.raises(ValueError, match=r"inputs must be a key of the batch \(x, y\) or a callable of it, found 'z'"):
        net.trunk({"x": torch.randn(6, 2), "y": 0})


@pytest.mark.parametrize("inputs", [{}, (), [], {3: "x"}, {"x": {3: "y"}}, ("x", []), {"x": {1, 2}}, {"x", "y"}])
def test_inputs_that_are_none(inputs: dict[str, Any] | list[Any]) -> None:
    with pytest.raises(ValueError, match="inputs must be a key of the batch, a callable of it, or a mapping"):
        MultiTaskModel(Both(), {"t": task()}, inputs)


def test_inputs_from_yaml() -> None:
    spec = OmegaConf.create(
        """
        _target_: mtl_accum.models.MultiTaskModel
        inputs: [x, s]
        trunk: {_target_: tests.models.test_multi_task.Positional}
        tasks:
          t:
            _target_: mtl_accum.models.Task
            head: {_target_: torch.nn.Linear, in_features: 4, out_features: 3}
            loss: {_target_: torch.nn.CrossEntropyLoss}
            target: y
            weight: {_target_: mtl_accum.models._weight.UncertaintyWeight}
        """
    )
    batch = {"x": torch.randn(6, 2), "s": torch.rand(6, 1), "y": torch.randint(0, 3, (6,))}
    by_keyword = OmegaConf.merge(spec, {"trunk": {"_target_": "tests.models.test_multi_task.Both"}})
    by_keyword.inputs = {"x": "x", "scale": "s"}
    for one in (spec, by_keyword):
        net = instantiate(one)
        assert list(Split().forward_backward(net.trunk, net.tasks, batch)) == ["t"]
        assert net.tasks["t"].weight.log_variance.grad is not None


def test_tasks_must_be_modules() -> None:
    with pytest.raises(TypeError, match="task 'f' must be an nn.Module such as Task, found function"):
        MultiTaskModel(nn.Linear(2, 4), {"f": lambda z, b: z.mean()}, "x")
