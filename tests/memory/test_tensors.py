"""Tensor meter against sums done by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_accum import Split
from mtl_accum.editions import phase
from mtl_accum.memory import TensorMeter, TrainingStep
from mtl_accum.testing import many_heads

CPU = torch.device("cpu")
FLOAT = 4


def test_counts_live_storages() -> None:
    with TensorMeter(CPU) as meter:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b + 1
        del b, c
        torch.zeros(10)
    result = meter.result()
    assert (result.base_bytes, result.peak_bytes, result.end_bytes) == (0, 2000 * FLOAT, 0)


def test_views_and_in_place_operations_count_once() -> None:
    with TensorMeter(CPU) as meter:
        a = torch.zeros(1000)
        a[10:20].view(2, 5).add_(1)
    assert meter.result().peak_bytes == 1000 * FLOAT


def test_resting_tensors_are_the_base() -> None:
    a = torch.zeros(500)
    with TensorMeter(CPU, inputs={"a": [a, a]}) as meter:
        a + 1
    result = meter.result()
    assert (result.base_bytes, result.peak_bytes, result.end_bytes) == (
        500 * FLOAT,
        1000 * FLOAT,
        500 * FLOAT,
    )


def test_sees_the_backward_and_the_optimizer() -> None:
    layer = nn.Linear(100, 50, bias=False)
    optimizer = torch.optim.Adam(layer.parameters())
    x = torch.randn(8, 100)
    with TensorMeter(CPU, parameters=[layer.weight], optimizer=optimizer, inputs=x) as meter:
        layer(x).sum().backward()
        after_backward = meter.result().end_bytes
        optimizer.step()
    weight = 5000 * FLOAT
    assert after_backward == weight + x.nbytes + weight  # the gradient is there
    state = sum(value.nbytes for value in optimizer.state[layer.weight].values())
    assert meter.result().end_bytes == after_backward + state
    assert meter.result().peak_bytes >= meter.result().end_bytes


def test_resized_storage() -> None:
    a = torch.zeros(10)
    with TensorMeter(CPU, inputs=a) as meter:
        a.resize_(1000)
    assert meter.result().end_bytes == 1000 * FLOAT


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # of torch 2.11
def test_sparse_tensors_have_two_storages() -> None:
    with TensorMeter(CPU) as meter:
        sparse = torch.sparse_coo_tensor(torch.tensor([[0, 1]]), torch.ones(2), (5,), check_invariants=False) * 2.0
    assert sparse._nnz() == 2
    assert meter.result().peak_bytes >= 2 * 8 + 2 * FLOAT


def test_other_devices_do_not_count() -> None:
    with TensorMeter(torch.device("meta")) as meter:
        torch.zeros(100)
        kept = torch.empty(7, device="meta")
    assert meter.result().end_bytes == kept.untyped_storage().nbytes()


def test_compiled_code_stays_compiled() -> None:
    ran = []

    def backend(graph: nn.Module, inputs: list[Tensor | nn.Parameter]) -> Callable[..., Any]:
        ran.append(graph)
        return graph.forward

    compiled = torch.compile(lambda x: x * 2 + 1, backend=backend)
    with TensorMeter(CPU):
        compiled(torch.ones(3))
    compiled(torch.ones(3))
    assert ran


def categories(meter: TensorMeter) -> dict[str, int]:
    result = meter.result()
    assert result.categories.total == result.peak_bytes
    return {name: size for name, size in asdict(result.categories).items() if size}


def test_categories_by_hand() -> None:
    """With y = w x and loss = sum(tanh(y)) the peak is in the backward: tanh(y) and dL/dy are alive."""
    weight = nn.Parameter(torch.randn(1000, 1))
    x = torch.randn(1, 1000)
    with TensorMeter(CPU, parameters=[weight], inputs=x) as meter:
        loss = (weight @ x).tanh().sum()
        loss.backward()
    assert categories(meter) == {
        "parameters": 1000 * FLOAT,
        "inputs": 1000 * FLOAT,
        "activations": 10**6 * FLOAT + 2 * FLOAT,  # tanh(y), the loss and dL/dL = 1; y itself is not saved
        "temporaries": 10**6 * FLOAT,  # dL/dy
    }
    assert meter.result().peak_operator == "aten.tanh_backward.default"
    assert (meter.result().peak_phase, meter.result().timeline) == (None, ())


def test_storages_freed_before_any_backward_are_temporaries() -> None:
    x = torch.randn(1000, requires_grad=True)
    with TensorMeter(CPU, parameters=[x]) as meter:
        a = x.detach().repeat(3)
        b = a[:1000] + 1
        del a
        loss = (x * b).sum()
        loss.backward()
    assert categories(meter) == {
        "parameters": 1000 * FLOAT,
        "activations": 1000 * FLOAT,
        "temporaries": 3000 * FLOAT,
    }


def test_gradients_and_optimizer_state_have_their_category_from_creation() -> None:
    layer = nn.Linear(300, 300, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    with TensorMeter(CPU, parameters=list(layer.parameters()), optimizer=optimizer) as meter:
        layer(torch.randn(1, 300)).sum().backward()
        optimizer.step()
    one = layer.weight.nbytes
    assert categories(meter) == {"parameters": one, "gradients": one, "optimizer_state": one}


def test_hooks_are_gone_afterwards() -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters())
    with TensorMeter(CPU, parameters=list(layer.parameters()), optimizer=optimizer):
        pass
    assert not layer.weight._post_accumulate_grad_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_timeline_has_every_phase_and_no_gap() -> None:
    model, batch = many_heads(heads=2)
    optimizer = torch.optim.AdamW(model.parameters())
    step = TrainingStep(model.trunk, model.tasks, batch, optimizer, Split())
    step()
    with step.tensor_meter() as meter:
        step()
    result = meter.result()
    assert [(phase.name, phase.kind) for phase in result.timeline] == [
        ("trunk", "forward"),
        ("head t0", "forward"),
        ("head t0", "backward"),
        ("head t1", "forward"),
        ("head t1", "backward"),
        ("trunk", "backward"),
        ("optimizer", "optimizer"),
        ("zero_grad", "zero_grad"),
    ]
    assert max(phase.peak_bytes for phase in result.timeline) == result.peak_bytes
    assert result.timeline[-1].end_bytes == result.end_bytes == result.base_bytes
    highest = max(result.timeline, key=lambda phase: phase.peak_bytes)
    assert result.peak_phase == (highest.name if highest.name == highest.kind else f"{highest.name} {highest.kind}")


def test_readings_between_two_phases_count_for_the_later_one() -> None:
    with TensorMeter(CPU) as meter:
        with phase("trunk", "forward"):
            pass
        torch.zeros(100)
        with phase("optimizer", "optimizer"):
            pass
    result = meter.result()
    assert [phase.peak_bytes for phase in result.timeline] == [0, 100 * FLOAT]
    assert result.peak_phase == "optimizer"


def test_rounds_every_storage_up() -> None:
    with TensorMeter(CPU, round_to=512) as meter:
        kept = [torch.zeros(1), torch.zeros(129)]
    assert len(kept) == 2
    assert meter.result().peak_bytes == 512 + 1024


def test_trace_has_every_birth_and_death() -> None:
    with TensorMeter(CPU, inputs=torch.zeros(5), trace=True) as meter:
        a = torch.zeros(10)
        a.resize_(20)
        del a
    sizes = [event.size for event in meter.events]
    assert [size for size in sizes if abs(size) != 5 * FLOAT] == [40, -40, 80, -80]


def test_a_sum_in_a_backward_of_ones_own_is_three_tensors() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor | None:
            first = gradient * 2
            return first + gradient * 3

    x = torch.randn(1000, requires_grad=True)
    y = Doubled.apply(x)
    with TensorMeter(CPU, parameters=[x], inputs=y) as meter:
        y.backward(torch.ones(1000))
    assert meter.result().peak_bytes == (2 + 1 + 2 + 1) * 1000 * FLOAT


def test_compiled_network_with_parameters_stays_compiled() -> None:
    ran = []

    def backend(graph: nn.Module, inputs: list[Tensor | nn.Parameter]) -> Callable[..., Any]:
        ran.append(graph)
        return graph.forward

    layer = nn.Linear(3, 3)
    compiled = torch.compile(layer, backend=backend)
    compiled(torch.ones(2, 3)).sum().backward()
    before = len(ran)
    with TensorMeter(CPU, parameters=list(layer.parameters())):
        compiled(torch.ones(2, 3)).sum().backward()
    compiled(torch.ones(2, 3)).sum().backward()
    assert len(ran) == before == 1


def test_a_meter_ignores_operators_after_its_block() -> None:
    with TensorMeter(CPU) as meter:
        kept = torch.zeros(1000)
    del kept
    assert (meter.result().peak_bytes, meter.result().end_bytes) == (4000, 4000)


def test_the_peak_may_be_at_the_start_of_the_step() -> None:
    x = torch.ones(1000, requires_grad=True)
    x.grad = torch.ones(1000)
    with TensorMeter(CPU, parameters=[x]) as meter:
        with phase("zero_grad", "zero_grad"):
            x.grad = None
        with phase("optimizer", "optimizer"):
            torch.zeros(1)
    result = meter.result()
    assert (result.peak_bytes, result.peak_phase) == (8000, "zero_grad")
    assert result.timeline[0].peak_bytes == 8000


def test_an_unused_sum_dies_after_its_creation() -> None:
    class Swallow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> None:
            return None

    x = torch.ones(1000, requires_grad=True)
    with TensorMeter(CPU, parameters=[x], trace=True) as meter:
        y = Swallow.apply(x)
        (y * 2 + y * 3).sum().backward()
    live: set[int] = set()
    for event in meter.events:
        if event.size > 0:
            live.add(event.storage)
        else:
            assert event.storage in live
            live.remove(event.storage)
    assert len(meter.events) > len(live) > 0
