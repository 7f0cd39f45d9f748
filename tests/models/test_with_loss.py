"""`WithLoss`: what a trainer's loop gets, and what it finds in the module."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from mtl_accum import Accumulated, Cached, Checkpointed, MultiTaskModel, OverBatches, PerTask, Split, SummedLoss, Task
from mtl_accum._difference import gradient_difference
from mtl_accum.models import LanguageHead, LanguageTask
from mtl_accum.models._weight import UncertaintyWeight
from mtl_accum.models._with_loss import WithLoss

EDITIONS = [SummedLoss(), Split(), Split(head_chunks=3), Cached(2), Accumulated(Split(), 3), Checkpointed(Split())]
ABSENT = "absent"


class Scaled(nn.Module):
    """A trunk with a buffer of its own."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x):
        return torch.tanh(self.linear(x)) * self.scale


def model(dtype=torch.float64) -> MultiTaskModel:
    torch.manual_seed(0)
    tasks = {
        "a.b": Task(nn.Linear(4, 3), nn.CrossEntropyLoss(), "y", UncertaintyWeight(0.3)),
        "depth": Task(nn.Linear(4, 2), nn.MSELoss(), "depth", 0.5),
        ABSENT: Task(nn.Linear(4, 2), nn.MSELoss(), "nowhere"),
    }
    return MultiTaskModel(Scaled(), tasks, "x").to(dtype)


def batch(dtype=torch.float64) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    y = torch.tensor([0, -100, 2, 1, -100, -100, 0])
    return {"x": torch.randn(7, 3, dtype=dtype), "y": y, "depth": torch.randn(7, 2, dtype=dtype)}


def gradients(module: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def expected_gradients() -> dict[str, torch.Tensor | None]:
    net = model()
    SummedLoss().forward_backward(net.trunk, net.tasks, batch())
    return gradients(net)


@pytest.mark.parametrize("edition", EDITIONS, ids=repr)
@pytest.mark.parametrize("fields", [True, False], ids=["fields", "batch"])
def test_a_loss_to_call_backward_on(edition, fields):
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
def test_either_a_batch_or_its_fields(arguments, fields):
    with pytest.raises(TypeError, match="must be called with a batch or with its fields as keywords, found"):
        WithLoss(model(), Split())(*arguments, **fields)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("edition", [SummedLoss(), Split(), Cached(2), Accumulated(Split(), 3)], ids=repr)
def test_losses_and_outputs_where_gradients_are_off(edition, off):
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


def test_outputs_without_any_target():
    net = model()
    with torch.no_grad():
        result = WithLoss(net, Split())(x=batch()["x"])
        assert result["loss"].isnan()
        assert list(result["losses"].values()) == [0, 0, 0]
        expected = net({"x": batch()["x"]})
    assert all(torch.equal(result["outputs"][name], output) for name, output in expected.items())
    assert list(result["outputs"]) == list(expected)


@pytest.mark.parametrize("enabled", [True, False])
def test_outputs_alone_on_request(enabled):
    net = model()
    with torch.set_grad_enabled(enabled):
        result = WithLoss(net, Split())(return_loss=False, **batch())
    assert list(result) == ["outputs"]
    assert all(output.requires_grad is enabled for output in result["outputs"].values())


def test_a_task_in_chunks_has_its_whole_output():
    torch.manual_seed(0)
    head = LanguageHead(nn.Linear(8, 8), 8, nn.Linear(8, 11))
    net = MultiTaskModel(nn.Embedding(11, 8), {"next": LanguageTask(head, "labels", chunks=3)}, "tokens")
    tokens = torch.randint(0, 11, (2, 6))
    with torch.no_grad():
        result = WithLoss(net, Split())(tokens=tokens, labels=tokens)
        assert torch.equal(result["outputs"]["next"], head(net.trunk({"tokens": tokens})))


def test_functions_have_no_outputs():
    net = model()
    tasks = {**net.tasks, "norm": lambda z, b: z.square().mean()}
    with torch.no_grad():
        result = WithLoss(net, Split(), tasks=tasks)(batch())
    assert list(result["losses"]) == [*net.tasks, "norm"]
    assert list(result["outputs"]) == list(net.tasks)


def test_an_exception_leaves_no_watcher():
    net = model()
    with torch.no_grad(), pytest.raises(ValueError, match=r"Expected input batch_size|must match"):
        WithLoss(net, Split())({**batch(), "y": torch.zeros(3, dtype=torch.int64)})
    assert net.tasks["a.b"].watchers == []


def test_gradients_decide_and_not_the_mode():
    net = model()
    wrapped = WithLoss(net, Split()).eval()
    assert not net.training
    wrapped(batch())["loss"].backward()
    assert gradient_difference(gradients(net), expected_gradients()) <= 1e-12
    with torch.no_grad():
        assert "outputs" in wrapped.train()(batch())


class Odd(MultiTaskModel):
    """A model with everything that a module may have at its root."""

    def __init__(self):
        super().__init__(Scaled(), {"depth": Task(nn.Linear(4, 2), nn.MSELoss(), "depth")}, "x")
        self.own = nn.Parameter(torch.zeros(2))
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.frozen = nn.BatchNorm1d(2)
        self.note = "new"

    def get_extra_state(self):
        return {"note": self.note}

    def set_extra_state(self, state):
        self.note = state["note"]

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self


def test_names_are_the_models():
    net = Odd()
    wrapped = WithLoss(net, Split())
    for kind in ("named_parameters", "named_buffers", "named_children"):
        assert [(n, id(v)) for n, v in getattr(wrapped, kind)()] == [(n, id(v)) for n, v in getattr(net, kind)()]
    assert [name for name, _ in wrapped.named_modules()] == [name for name, _ in net.named_modules()]
    assert wrapped.get_parameter("trunk.module.linear.weight") is net.trunk.module.linear.weight
    assert wrapped.state_dict().keys() == net.state_dict().keys()
    assert wrapped.state_dict()._metadata == net.state_dict()._metadata


@pytest.mark.parametrize("assign", [True, False])
def test_state_dicts_travel_both_ways(assign):
    trained = Odd()
    trained.note = "trained"
    for source, make in ((trained, lambda net: WithLoss(net, Split())), (WithLoss(trained, Split()), lambda net: net)):
        net = Odd()
        state = copy.deepcopy(source.state_dict())
        made = make(net)
        made.load_state_dict(state, assign=assign)
        assert net.note == "trained"
        assert all(
            torch.equal(value, state[name])
            for name, value in net.state_dict().items()
            if name in dict(net.named_parameters())
        )
        assert made.own is net.own
        with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"more\""):
            made.load_state_dict({**state, "more": torch.ones(1)})


def test_state_dict_hooks_of_the_model_run():
    net = Odd()
    calls: list[str] = []
    wrapped = WithLoss(net, Split())
    net.register_state_dict_pre_hook(lambda *_: calls.append("before saving"))
    net.register_state_dict_post_hook(lambda *_: calls.append("saved"))
    net.register_load_state_dict_pre_hook(lambda *_: calls.append("before loading"))
    net.register_load_state_dict_post_hook(lambda *_: calls.append("loaded"))
    wrapped.load_state_dict(wrapped.state_dict())
    assert calls == ["before saving", "saved", "before loading", "loaded"]


def test_modes_are_the_models():
    net = Odd()
    wrapped = WithLoss(net.eval(), Split())
    assert not net.training and not wrapped.training
    wrapped.train()
    assert net.training and wrapped.training and net.trunk.module.training and not net.frozen.training
    modes = {module: module.training for module in wrapped.modules()}  # as Lightning does around its validation
    wrapped.eval()
    for module, mode in modes.items():
        module.training = mode
    assert net.training


def test_what_replaces_parameters_replaces_them_in_both():
    net = Odd()
    wrapped = WithLoss(net, Split())
    wrapped.to(torch.float64)
    assert net.own.dtype == net.kept.dtype == net.passing.dtype == net.trunk.module.scale.dtype == torch.float64
    net.to(torch.float32)
    assert wrapped.kept.dtype == torch.float32
    net.trunk.module.linear = nn.Linear(3, 4)
    net.frozen = nn.BatchNorm1d(2, affine=False)
    net.own = nn.Parameter(torch.ones(2))
    assert {id(p) for p in wrapped.parameters()} == {id(p) for p in net.parameters()}
    wrapped.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("given", [False, True])
def test_copies_are_whole(copied, given):
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


class Public(nn.Module):
    """A model as it comes: no trunk, no tasks, a forward of its own."""

    def __init__(self):
        super().__init__()
        self.encoder, self.classifier = nn.Linear(3, 4), nn.Linear(4, 2)

    def encode(self, batch):
        return nn.functional.dropout(torch.tanh(self.encoder(batch["x"])), 0.5, self.training)

    def forward(self, x):
        raise AssertionError("it does not run")


def mean_square(z, batch):
    return z.square().mean()


def given_tasks(net: Public) -> WithLoss:
    shared = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4))
    head = nn.Sequential(nn.Dropout(0.0), net.classifier)
    tasks = {
        "class": Task(head, nn.CrossEntropyLoss(torch.tensor([1.0, 2.0])), "labels", UncertaintyWeight(0.3)),
        "a.b": Task(
            nn.Sequential(shared, net.classifier), nn.CrossEntropyLoss(), "labels", nn.Parameter(torch.ones(1))
        ),
        "new": Task(nn.Sequential(shared, nn.Linear(4, 2)), nn.CrossEntropyLoss(), "labels"),
        "same": Task(net.classifier, nn.CrossEntropyLoss(), "labels"),
        "function": mean_square,
    }
    return WithLoss(net, Split(), trunk=net.encode, tasks=tasks)


BESIDE = {
    "with_loss.tasks.class.weight.log_variance",
    "with_loss.tasks.a%2Eb.weight",
    "with_loss.tasks.a%2Eb.head.0.1.weight",
    "with_loss.tasks.a%2Eb.head.0.1.bias",
    "with_loss.tasks.new.head.1.weight",
    "with_loss.tasks.new.head.1.bias",
}


def test_a_model_keeps_its_class():
    net = Public()
    wrapped = given_tasks(net)
    assert dict(net.named_parameters()).keys() == {
        f"{m}.{p}" for m in ("encoder", "classifier") for p in ("weight", "bias")
    }
    names = dict(wrapped.named_parameters()).keys()
    assert names == dict(net.named_parameters()).keys() | BESIDE
    assert wrapped.state_dict().keys() == names | {"with_loss.tasks.class.loss.weight"}
    data = {"x": torch.randn(4, 3), "labels": torch.tensor([0, 1, 1, 0])}
    wrapped(**data)["loss"].backward()
    assert all(p.grad is not None for p in wrapped.parameters())
    wrapped.eval()
    assert not any(
        module.training for task in wrapped._tasks.values() if isinstance(task, nn.Module) for module in task.modules()
    )
    wrapped.to(torch.float64)
    assert wrapped._tasks["class"].loss.weight.dtype == torch.float64
    assert wrapped._tasks["a.b"].weight.dtype == torch.float64
    with torch.no_grad():
        outputs = wrapped(x=data["x"].double())["outputs"]
    assert set(outputs) == {"class", "a.b", "new", "same"}


def test_the_state_of_given_tasks_travels():
    first, second = given_tasks(Public()), given_tasks(Public())
    second.load_state_dict(first.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    bare = Public()
    missing = given_tasks(bare).load_state_dict(Public().state_dict(), strict=False).missing_keys
    assert set(missing) == BESIDE | {"with_loss.tasks.class.loss.weight"}
    with pytest.raises(RuntimeError, match="Unexpected.*with_loss.tasks.nobody"):
        second.load_state_dict({**first.state_dict(), "with_loss.tasks.nobody.weight": torch.ones(1)})
    bare.load_state_dict(
        {name: value for name, value in first.state_dict().items() if not name.startswith("with_loss.")}
    )


def test_replaced_parts_are_noticed():
    net = Public()
    wrapped = given_tasks(net)
    net.classifier = nn.Linear(4, 2)
    with pytest.raises(RuntimeError, match="a submodule of the model was replaced after the tasks were given"):
        wrapped(x=torch.randn(4, 3))


def test_a_function_trains_nothing_that_is_not_registered():
    net, other = Public(), nn.Linear(4, 2)
    with pytest.raises(TypeError, match=r"a function that uses others: Linear.weight, Linear.bias; make it a Task"):
        WithLoss(net, Split(), trunk=net.encode, tasks={"a": lambda z, b: other(z).mean()})
    other.requires_grad_(False)
    WithLoss(net, Split(), trunk=net.encode, tasks={"a": lambda z, b: (net.classifier(z) - other(z)).square().mean()})


class Bare:
    """An edition of one's own without a loss."""

    def forward_backward(self, trunk, tasks, batch):
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
def test_editions_without_a_loss_are_refused(edition, message):
    with pytest.raises(TypeError, match=message):
        WithLoss(model(), edition)


class OptimizedModule(nn.Module):
    """As torch.compile names its wrapper."""


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
def test_models_that_are_none(arguments, message):
    with pytest.raises(TypeError, match=message):
        WithLoss(**{"model": model(), "edition": Split(), **arguments})
    with pytest.raises(ValueError, match="tasks must hold at least one task"):
        WithLoss(model(), Split(), tasks={})


def test_data_parallel_is_refused():
    with pytest.raises(RuntimeError, match="WithLoss does not run under nn.DataParallel.*one process for each GPU"):
        WithLoss(model(), Split())._replicate_for_data_parallel()  # as torch.nn.parallel.replicate does


def test_transformers_divides_by_the_accumulated_steps():
    assert WithLoss.accepts_loss_kwargs is False


def test_scale_and_group_reach_the_edition():
    seen = {}

    class Noting:
        def forward_backward(self, trunk, tasks, batch):
            raise AssertionError

        def loss(self, trunk, tasks, batch, *, scale, group):
            seen.update(scale=scale, group=group)
            return SummedLoss().loss(trunk, tasks, batch)

    WithLoss(model(), Noting(), scale=8.0, group="ranks")(batch())
    assert seen == {"scale": 8.0, "group": "ranks"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what Dynamo warns of while it traces
def test_compiled_around_everything():
    net = model()
    compiled = torch.compile(WithLoss(net, Split()), backend="eager")
    compiled(batch())["loss"].backward()
    assert gradient_difference(gradients(net), expected_gradients()) <= 1e-12


def test_it_prints_itself():
    assert repr(WithLoss(model(), Split())).startswith("WithLoss(\n  MultiTaskModel, Split(")
