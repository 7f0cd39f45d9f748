"""`WithLoss` in a trainer's loop: losses, outputs and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import (
    Accumulated,
    Cached,
    Checkpointed,
    Edition,
    MultiTaskModel,
    OverBatches,
    PerTask,
    Split,
    SummedLoss,
)
from mtl_accum.models import LanguageHead, LanguageTask, WithLoss
from mtl_accum.verify._difference import gradient_difference
from tests.models.networks import ABSENT, Public, Scaled, batch, expected_gradients, gradients, model

EDITIONS = [SummedLoss(), Split(), Split(head_chunks=3), Cached(2), Accumulated(Split(), 3), Checkpointed(Split())]


@pytest.mark.parametrize("edition", EDITIONS, ids=repr)
@pytest.mark.parametrize("fields", [True, False], ids=["fields", "batch"])
def test_a_loss_to_call_backward_on(edition: Edition, fields: bool) -> None:
    net = model()
    wrapped = WithLoss(net, edition)
    result = wrapped(**batch()) if fields else wrapped(batch())
    assert list(result) == ["loss", "losses"]
    assert list(result["losses"]) == ["a.b", "depth", ABSENT]
    torch.testing.assert_close(result["loss"], sum(result["losses"].values()))
    assert result["losses"][ABSENT] == 0
    assert not any(loss.requires_grad for loss in result["losses"].values())
    (result["loss"] * 0.5).backward()
    expected = expected_gradients()
    assert expected["tasks.a%2Eb.weight.log_variance"].any()
    halves = {name: None if gradient is None else gradient / 2 for name, gradient in expected.items()}
    assert gradient_difference(gradients(net), halves) <= 1e-12
    assert net.tasks[ABSENT].head.weight.grad is None


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [((), {}), ((), {"return_loss": True}), (({"x": 1},), {"x": 1, "y": 2}), ((), {"batch": {"x": 1}, "y": 2})],
)
def test_either_a_batch_or_its_fields(arguments: tuple[Any], fields: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="must be called with a batch or with its fields as keywords, found"):
        WithLoss(model(), Split())(*arguments, **fields)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("edition", [SummedLoss(), Split(), Cached(2), Accumulated(Split(), 3)], ids=repr)
def test_losses_and_outputs_without_gradients(edition: Edition, off: type[Any]) -> None:
    net, data = model(), batch()
    passes: list[str] = []
    watched: list[torch.Tensor] = []
    net.trunk.register_forward_hook(lambda *_: passes.append("trunk"))
    for name, task in net.tasks.items():
        task.head.register_forward_hook(lambda *_, name=name: passes.append(name))
    net.tasks["depth"].watchers.append(lambda output, target: watched.append(output))
    with off():
        result = WithLoss(net, edition)(**data)
        assert list(result) == ["loss", "losses", "outputs"]
        z = net.trunk.module(data["x"])
        for name, task in net.tasks.items():
            assert torch.equal(result["outputs"][name], nn.functional.linear(z, task.head.weight, task.head.bias))
            if name != ABSENT:
                torch.testing.assert_close(result["losses"][name], task(z, data))
    assert sorted(passes[:4]) == sorted(["trunk", "a.b", "depth", ABSENT])
    assert watched[0] is result["outputs"]["depth"] and len(net.tasks["depth"].watchers) == 1
    assert result["losses"][ABSENT] == 0
    torch.testing.assert_close(result["loss"], sum(result["losses"].values()))


def test_outputs_without_any_target() -> None:
    net = model()
    with torch.no_grad():
        result = WithLoss(net, Split())(x=batch()["x"])
        assert result["loss"].isnan()
        assert list(result["losses"].values()) == [0, 0, 0]
        expected = net({"x": batch()["x"]})
    assert all(torch.equal(result["outputs"][name], output) for name, output in expected.items())
    assert list(result["outputs"]) == list(expected)


@pytest.mark.parametrize("enabled", [True, False])
def test_outputs_alone_on_request(enabled: bool) -> None:
    net = model()
    with torch.set_grad_enabled(enabled):
        result = WithLoss(net, Split())(return_loss=False, **batch())
    assert list(result) == ["outputs"]
    assert all(output.requires_grad is enabled for output in result["outputs"].values())


def test_a_task_in_chunks_has_its_whole_output() -> None:
    torch.manual_seed(0)
    head = LanguageHead(nn.Linear(8, 8), 8, nn.Linear(8, 11))
    net = MultiTaskModel(nn.Embedding(11, 8), {"next": LanguageTask(head, "labels", chunks=3)}, "tokens")
    tokens = torch.randint(0, 11, (2, 6))
    with torch.no_grad():
        result = WithLoss(net, Split())(tokens=tokens, labels=tokens)
        assert torch.equal(result["outputs"]["next"], head(net.trunk({"tokens": tokens})))


def test_functions_have_no_outputs() -> None:
    net = model()
    tasks = {**net.tasks, "norm": lambda z, b: z.square().mean()}
    with torch.no_grad():
        result = WithLoss(net, Split(), tasks=tasks)(batch())
    assert list(result["losses"]) == [*net.tasks, "norm"]
    assert list(result["outputs"]) == list(net.tasks)


def test_an_exception_leaves_no_watcher() -> None:
    net = model()
    with torch.no_grad(), pytest.raises(ValueError, match=r"Expected input batch_size|must match"):
        WithLoss(net, Split())({**batch(), "y": torch.zeros(3, dtype=torch.int64)})
    assert net.tasks["a.b"].watchers == []


def test_gradients_decide_and_not_the_mode() -> None:
    net = model()
    wrapped = WithLoss(net, Split()).eval()
    assert not net.training
    wrapped(batch())["loss"].backward()
    assert gradient_difference(gradients(net), expected_gradients()) <= 1e-12
    with torch.no_grad():
        assert "outputs" in wrapped.train()(batch())


class Bare:
    """User edition without a loss."""

    def forward_backward(self, trunk: Any, tasks: Any, batch: Any) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("edition", "message"),
    [
        (PerTask(), r"edition must have loss\(trunk, tasks, batch\), found PerTask\(\); use Split\(\).*PerTask: each"),
        (Checkpointed(PerTask()), r"found Checkpointed.*use Split\(\)"),
        (Accumulated(PerTask(), 2), r"use Split\(\)"),
        (OverBatches(Split()), r"use Split\(\).*OverBatches: its batches"),
        (Bare(), r"use Split\(\)"),
        (Split, "edition must be an instance, found the class Split"),
        (3, "edition must have forward_backward, found 3"),
    ],
)
def test_editions_without_a_loss_are_refused(edition: Edition, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        WithLoss(model(), edition)


class OptimizedModule(nn.Module):
    """Module with the class name of the wrapper of torch.compile."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 3}, "model must be a module, found 3"),
        ({"model": Public()}, "trunk must be a callable batch -> representation, found none; a model without .trunk"),
        ({"model": OptimizedModule()}, "found it in OptimizedModule, .*wrap afterwards"),
        ({"model": nn.DataParallel(model())}, "found it in DataParallel"),
        ({"tasks": [3]}, r"tasks must be a mapping from names to tasks, found \[3\]"),
        ({"trunk": Scaled}, "trunk must be a callable batch -> representation, found <class"),
    ],
)
def test_models_that_are_none(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        WithLoss(**{"model": model(), "edition": Split(), **arguments})
    with pytest.raises(ValueError, match="tasks must hold at least one task"):
        WithLoss(model(), Split(), tasks={})


def test_transformers_divides_by_the_accumulated_steps() -> None:
    assert WithLoss.accepts_loss_kwargs is False


def test_scale_and_group_reach_the_edition() -> None:
    seen: dict[Any, Any] = {}

    class Noting:
        def forward_backward(self, trunk: Any, tasks: Any, batch: Any) -> None:
            raise AssertionError

        def loss(
            self, trunk: nn.Module, tasks: nn.Module, batch: dict[str, Tensor], *, scale: float, group: str
        ) -> tuple[Tensor, dict[str, Tensor]]:
            seen.update(scale=scale, group=group)
            return SummedLoss().loss(trunk, tasks, batch)

    WithLoss(model(), Noting(), scale=8.0, group="ranks")(batch())
    assert seen == {"scale": 8.0, "group": "ranks"}


def test_it_prints_itself() -> None:
    assert repr(WithLoss(model(), Split())).startswith("WithLoss(\n  MultiTaskModel, Split(")
