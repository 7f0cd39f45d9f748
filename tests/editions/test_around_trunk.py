"""Checkpointing and offloading the trunk: which blocks, how much memory, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mtl_accum import Accumulated, Checkpointed, Edition, MultiTaskModel, Offloaded, Split, SummedLoss, Task, predict
from mtl_accum.editions._checkpointed import _blocks
from mtl_accum.testing import Workload, assert_same_gradient, convolutional, transformer, vector


def block(width: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Tanh())


def stacked(dtype: torch.dtype) -> Workload:
    """Blocks with BatchNorm and dropout, one of them used twice, and a head that uses it a third time."""
    torch.manual_seed(0)
    shared = block()
    trunk = nn.Sequential(nn.Linear(3, 5), nn.Sequential(block(), shared, block(), shared))
    tasks = {"a": Task(nn.Sequential(shared, nn.Linear(5, 1)), nn.MSELoss(), "y"), "b": Task(shared, nn.L1Loss(), "z")}
    model = MultiTaskModel(trunk, tasks, "x").to(dtype)
    batch = {"x": torch.randn(7, 3, dtype=dtype), "y": torch.randn(7, 1, dtype=dtype)}
    return Workload(model.trunk, dict(model.tasks), {**batch, "z": torch.randn(7, 5, dtype=dtype)}, model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("edition", [Checkpointed(Split()), Checkpointed(SummedLoss()), Offloaded(Split())], ids=repr)
def test_batch_statistics_and_dropout_are_those_of_one_pass(edition: Edition, dtype: torch.dtype) -> None:
    oracle = SummedLoss()
    assert_same_gradient(edition, lambda: stacked(dtype), oracle=oracle)


def test_blocks_are_the_items_of_the_outermost_list() -> None:
    trunk = transformer()[0].trunk
    names = {module: name for name, module in trunk.named_modules()}
    assert [names[found] for found in _blocks(list(trunk.modules()))] == [
        f"module.network.blocks.{n}" for n in range(3)
    ]
    plain = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    assert _blocks(list(plain.modules())) == []  # one block: the trunk


def test_a_block_is_run_again_and_only_there() -> None:
    load = stacked(torch.float64)
    calls = []
    first = load.trunk.module[1][0]  # type: ignore[attr-defined]
    first.register_forward_hook(lambda *_: calls.append("hook"))
    first[0].register_forward_hook(lambda *_: calls.append("inside"))
    Checkpointed(Split()).forward_backward(load.trunk, load.tasks, load.batch)
    assert calls == ["inside", "hook", "inside"]
    assert "forward" not in vars(first)


def test_an_exception_and_a_forward_of_ones_own_are_survived() -> None:
    load = stacked(torch.float64)
    first, last = load.trunk.module[1][0], load.trunk.module[1][2]  # type: ignore[attr-defined]
    own = first.forward
    vars(first)["forward"] = own

    def fail(*_: object) -> None:
        raise KeyError("here")

    handle = last.register_forward_pre_hook(fail)
    with pytest.raises(KeyError, match="here"):
        Checkpointed(Split()).forward_backward(load.trunk, load.tasks, load.batch)
    handle.remove()
    assert vars(first)["forward"] is own
    assert "forward" not in vars(last)


@pytest.mark.parametrize("make", [convolutional, transformer])
def test_memory(make: Callable[..., Any]) -> None:
    model, batch = make(samples=40)

    def activations(edition: Edition, device: str = "cpu") -> int:
        found = predict(model.trunk, model.tasks, batch, edition=edition, device=device)
        return found.peak_bytes - found.base_bytes

    assert activations(Checkpointed(Split())) < 0.8 * activations(Split())
    assert activations(Offloaded(Split()), "cuda") < 0.8 * activations(Split(), "cuda")
    assert activations(Offloaded(Checkpointed(Split())), "cuda") <= activations(Checkpointed(Split()), "cuda")


@pytest.mark.cuda
def test_offloading_on_a_device() -> None:
    load = vector(torch.float64)
    load.modules.to("cuda")
    load.batch.update({name: tensor.to("cuda") for name, tensor in load.batch.items()})
    assert_same_gradient(Offloaded(Split()), lambda: load)


@pytest.mark.parametrize("wrapper", [Checkpointed, Offloaded])
def test_wants_an_edition(wrapper: type[Any]) -> None:
    with pytest.raises(TypeError, match="edition must have forward_backward, found 'split'; e.g. Split"):
        wrapper("split")
    assert wrapper(Accumulated(Split(head_chunks=2), 2)).cuts(4)
