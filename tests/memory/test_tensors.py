"""The tensor meter against sums that can be done by hand."""

from __future__ import annotations

import torch
from torch import nn

from mtl_accum.memory import TensorMeter

CPU = torch.device("cpu")
FLOAT = 4


def test_counts_what_is_alive_at_once():
    with TensorMeter(CPU) as meter:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b + 1
        del b, c
        torch.zeros(10)
    result = meter.result()
    assert (result.base_bytes, result.peak_bytes, result.end_bytes) == (0, 2000 * FLOAT, 0)


def test_views_and_in_place_operations_count_once():
    with TensorMeter(CPU) as meter:
        a = torch.zeros(1000)
        a[10:20].view(2, 5).add_(1)
    assert meter.result().peak_bytes == 1000 * FLOAT


def test_resting_tensors_are_the_base():
    a = torch.zeros(500)
    with TensorMeter(CPU, {"a": [a, a]}) as meter:
        a + 1
    result = meter.result()
    assert (result.base_bytes, result.peak_bytes, result.end_bytes) == (
        500 * FLOAT,
        1000 * FLOAT,
        500 * FLOAT,
    )


def test_sees_the_backward_and_the_optimizer():
    layer = nn.Linear(100, 50, bias=False)
    optimizer = torch.optim.Adam(layer.parameters())
    x = torch.randn(8, 100)
    with TensorMeter(CPU, layer.weight, x) as meter:
        layer(x).sum().backward()
        after_backward = meter.result().end_bytes
        optimizer.step()
    weight = 5000 * FLOAT
    assert after_backward == weight + x.nbytes + weight  # the gradient is there
    state = sum(value.nbytes for value in optimizer.state[layer.weight].values())
    assert meter.result().end_bytes == after_backward + state
    assert meter.result().peak_bytes >= meter.result().end_bytes


def test_resized_storage():
    a = torch.zeros(10)
    with TensorMeter(CPU, a) as meter:
        a.resize_(1000)
    assert meter.result().end_bytes == 1000 * FLOAT


def test_sparse_tensors_have_two_storages():
    with TensorMeter(CPU) as meter:
        sparse = torch.sparse_coo_tensor(torch.tensor([[0, 1]]), torch.ones(2), (5,), check_invariants=False) * 2.0
    assert sparse._nnz() == 2
    assert meter.result().peak_bytes >= 2 * 8 + 2 * FLOAT


def test_other_devices_do_not_count():
    with TensorMeter(torch.device("meta")) as meter:
        torch.zeros(100)
        kept = torch.empty(7, device="meta")
    assert meter.result().end_bytes == kept.untyped_storage().nbytes()


def test_compiled_code_stays_compiled():
    ran = []

    def backend(graph, inputs):
        ran.append(graph)
        return graph.forward

    compiled = torch.compile(lambda x: x * 2 + 1, backend=backend)
    with TensorMeter(CPU):
        compiled(torch.ones(3))
    compiled(torch.ones(3))
    assert ran
