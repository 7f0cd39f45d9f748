"""`WithLoss` as a module: names, state dicts, modes, and wrappers of trainers."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import distributed, nn

from mtl_accum import Cached, Edition, MultiTaskModel, Split, SummedLoss, Task
from mtl_accum.models import WithLoss
from mtl_accum.verify._difference import gradient_difference
from tests.models.networks import ABSENT, Public, Scaled, batch, expected_gradients, given_tasks, gradients, model


class Odd(MultiTaskModel):
    """Model with parameters, buffers and state at its root."""

    def __init__(self) -> None:
        super().__init__(Scaled(), {"depth": Task(nn.Linear(4, 2), nn.MSELoss(), "depth")}, "x")
        self.own = nn.Parameter(torch.zeros(2))
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.frozen = nn.BatchNorm1d(2)
        self.note = "new"

    def get_extra_state(self) -> dict[str, str]:
        return {"note": self.note}

    def set_extra_state(self, state: dict[str, str]) -> None:
        self.note = state["note"]

    def train(self, mode: bool = True) -> Odd:
        super().train(mode)
        self.frozen.eval()
        return self


def test_names_are_the_models() -> None:
    net = Odd()
    wrapped = WithLoss(net, Split())
    for kind in ("named_parameters", "named_buffers", "named_children"):
        assert [(n, id(v)) for n, v in getattr(wrapped, kind)()] == [(n, id(v)) for n, v in getattr(net, kind)()]
    assert [name for name, _ in wrapped.named_modules()] == [name for name, _ in net.named_modules()]
    assert wrapped.get_parameter("trunk.module.linear.weight") is net.trunk.module.linear.weight
    assert wrapped.state_dict().keys() == net.state_dict().keys()
    assert wrapped.state_dict()._metadata == net.state_dict()._metadata  # type: ignore[attr-defined]


@pytest.mark.parametrize("assign", [True, False])
def test_state_dicts_travel_both_ways(assign: bool) -> None:
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


def test_state_dict_hooks_of_the_model_run() -> None:
    net = Odd()
    calls: list[str] = []
    wrapped = WithLoss(net, Split())
    net.register_state_dict_pre_hook(lambda *_: calls.append("before saving"))
    net.register_state_dict_post_hook(lambda *_: calls.append("saved"))
    net.register_load_state_dict_pre_hook(lambda *_: calls.append("before loading"))
    net.register_load_state_dict_post_hook(lambda *_: calls.append("loaded"))
    wrapped.load_state_dict(wrapped.state_dict())
    assert calls == ["before saving", "saved", "before loading", "loaded"]


def test_modes_are_the_models() -> None:
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


def test_parameters_are_replaced_in_both() -> None:
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


BESIDE = {
    "with_loss.tasks.class.weight.log_variance",
    "with_loss.tasks.a%2Eb.weight",
    "with_loss.tasks.a%2Eb.head.0.1.weight",
    "with_loss.tasks.a%2Eb.head.0.1.bias",
    "with_loss.tasks.new.head.1.weight",
    "with_loss.tasks.new.head.1.bias",
}


def test_a_model_keeps_its_class() -> None:
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


def test_the_state_of_given_tasks_is_saved_and_loaded() -> None:
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


def test_replaced_parts_are_noticed() -> None:
    net = Public()
    wrapped = given_tasks(net)
    net.classifier = nn.Linear(4, 2)
    with pytest.raises(RuntimeError, match="a submodule of the model was replaced after the tasks were given"):
        wrapped(x=torch.randn(4, 3))


def test_a_function_trains_nothing_that_is_not_registered() -> None:
    net, other = Public(), nn.Linear(4, 2)
    with pytest.raises(TypeError, match=r"a function that uses others: Linear.weight, Linear.bias; make it a Task"):
        WithLoss(net, Split(), trunk=net.encode, tasks={"a": lambda z, b: other(z).mean()})
    other.requires_grad_(False)
    WithLoss(net, Split(), trunk=net.encode, tasks={"a": lambda z, b: (net.classifier(z) - other(z)).square().mean()})


@pytest.fixture
def one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield
    distributed.destroy_process_group()


def without_absent() -> MultiTaskModel:
    net = model()
    net.tasks._modules.pop(ABSENT), net.tasks._keys.pop(ABSENT)
    return net


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("edition", [SummedLoss(), Split(), Cached(2)], ids=repr)
@pytest.mark.parametrize("options", [{}, {"static_graph": True}, {"find_unused_parameters": True}], ids=repr)
def test_inside_of_ddp(edition: Edition, options: dict[str, bool]) -> None:
    net = without_absent()
    engine = nn.parallel.DistributedDataParallel(WithLoss(net, edition), **options)
    expected = {name: gradient for name, gradient in expected_gradients().items() if ABSENT not in name}
    for _ in range(3):
        engine.zero_grad()
        engine(**batch())["loss"].backward()
        assert gradient_difference(gradients(net), expected) <= 1e-12
    assert engine.state_dict().keys() == {f"module.{name}" for name in net.state_dict()}
    engine.load_state_dict(engine.state_dict())
    with torch.no_grad():
        assert list(engine(**batch())) == ["loss", "losses", "outputs"]
    with pytest.raises(TypeError, match="found it in DistributedDataParallel"):
        WithLoss(nn.parallel.DistributedDataParallel(net), edition)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("edition", [SummedLoss(), Split(), Cached(2), Split(head_chunks=3)], ids=repr)
@pytest.mark.parametrize("layout", ["root", "parts and root", "blocks and root"])
def test_inside_of_fsdp2(edition: Edition, layout: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net, mesh = model(), init_device_mesh("cpu", (1,))
    wrapped = WithLoss(net, edition)
    parts = {
        "root": [],
        "parts and root": [net.trunk, *net.tasks.values()],
        "blocks and root": [net.trunk.module.linear],
    }
    for part in [*parts[layout], wrapped]:
        fully_shard(part, mesh=mesh)
    assert {type(p).__name__ for p in net.parameters()} == {"DTensor"}
    for _ in range(2):
        wrapped.zero_grad()
        wrapped(**batch())["loss"].backward()
        whole = {name: None if p.grad is None else p.grad.full_tensor() for name, p in net.named_parameters()}  # type: ignore[attr-defined]
        absent = [whole.pop(name) for name in list(whole) if ABSENT in name]
        assert not any(gradient is not None and gradient.any() for gradient in absent)
        assert gradient_difference(whole, {n: g for n, g in expected_gradients().items() if ABSENT not in n}) <= 1e-12
    with torch.no_grad():
        plain = WithLoss(model(), edition)(**batch())
        for name, output in wrapped(**batch())["outputs"].items():
            torch.testing.assert_close(output, plain["outputs"][name])
    assert list(wrapped.state_dict()) == list(model().state_dict())
    with pytest.raises(TypeError, match="found it in FSDPModule"):
        WithLoss(wrapped, edition)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what Dynamo warns of while it traces
def test_compiled_around_everything() -> None:
    net = model()
    compiled = torch.compile(WithLoss(net, Split()), backend="eager")
    compiled(batch())["loss"].backward()
    assert gradient_difference(gradients(net), expected_gradients()) <= 1e-12


def test_data_parallel_is_refused() -> None:
    with pytest.raises(RuntimeError, match="WithLoss does not run under nn.DataParallel.*one process for each GPU"):
        WithLoss(model(), Split())._replicate_for_data_parallel()  # as torch.nn.parallel.replicate does
