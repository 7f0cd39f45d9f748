"""Memory of the editions: one head's graph at a time, for any number of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn

from mtl_accum import Accumulated, AsLoss, Cached, Edition, MultiTaskModel, PerTask, Split, SummedLoss, Task
from mtl_accum.memory import TensorMeter

MIB = 2**20
CONF = str(Path(__file__).resolve().parents[2] / "conf")
CPU = torch.device("cpu")


def peak(edition: Edition, model: MultiTaskModel, batch: dict[str, Tensor], *, set_to_none: bool = True) -> int:
    """Return the peak bytes of one call, above the bytes that remain."""
    model.zero_grad(set_to_none)
    with TensorMeter(CPU, parameters=list(model.parameters()), inputs=batch) as meter:
        edition.forward_backward(model.trunk, model.tasks, batch)
    result = meter.result()
    return result.peak_bytes - result.base_bytes


def many_tasks(tasks: int, width: int = 32, samples: int = 2048) -> tuple[MultiTaskModel, dict[str, Tensor]]:
    """Dense heads whose loss keeps an element-wise map, if it is let."""
    torch.manual_seed(0)

    def head() -> nn.Module:
        return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))

    heads = {f"t{n}": Task(head(), nn.MSELoss(), "y") for n in range(tasks)}
    model = MultiTaskModel(nn.Sequential(nn.Linear(8, width), nn.Tanh()), heads, "x")
    return model, {"x": torch.randn(samples, 8), "y": torch.randn(samples, width)}


def gradients(model: MultiTaskModel) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


@pytest.mark.parametrize("edition", [PerTask(), Split(), Cached(chunk_size=512)], ids=repr)
def test_memory_does_not_grow_with_the_tasks(edition: Edition) -> None:
    peaks = []
    for tasks in (2, 32):
        model, batch = many_tasks(tasks)
        peaks.append(peak(edition, model, batch) - gradients(model))  # every head's .grad is there in the end
    assert peaks[1] <= 1.01 * peaks[0]


def test_the_summed_loss_grows() -> None:
    peaks = [peak(SummedLoss(), *many_tasks(tasks)) for tasks in (2, 32)]
    assert peaks[1] > 5 * peaks[0]


LOSSES = [Split(), Split(head_chunks=4), Cached(chunk_size=128), Accumulated(Split(), 4)]


@pytest.mark.parametrize("edition", [AsLoss(edition) for edition in LOSSES], ids=repr)
def test_a_loss_grows_by_one_copy_of_the_heads_gradients(edition: Edition) -> None:
    """They are held until the caller's backward: in place of `.grad` if it is None, else in addition to it."""
    fresh, beside, own = {}, {}, {}
    for tasks in (2, 8, 32):
        model, batch = many_tasks(tasks, width=128, samples=512)
        own[tasks] = gradients(model)
        fresh[tasks] = peak(edition, model, batch) - own[tasks]
        beside[tasks] = peak(edition, model, batch, set_to_none=False)
    assert max(fresh.values()) < 1.05 * fresh[2]
    for tasks in (8, 32):
        assert beside[tasks] - beside[2] < 1.1 * (own[tasks] - own[2])
    assert beside[32] - beside[2] > 0.9 * (own[32] - own[2]), "that copy is there"


def test_losses_hold_one_dz_a_task() -> None:
    model, batch = many_tasks(8)
    z = 2048 * 32 * 4
    extra = peak(AsLoss(Split(), each=True), model, batch) - peak(AsLoss(Split()), model, batch)
    assert 5 * z < extra < 8 * z


def test_pieces_need_less() -> None:
    model, batch = many_tasks(4)
    whole = peak(Split(), model, batch)
    assert peak(Accumulated(Split(), micro_batches=8), model, batch) < 0.35 * whole
    assert peak(Split(head_chunks=8), model, batch) < 0.75 * whole


@pytest.fixture(scope="module")
def two_task() -> tuple[MultiTaskModel, dict[str, Tensor]]:
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("config", overrides=["+experiment=two_task"])
    torch.manual_seed(0)
    return instantiate(config.model), next(iter(instantiate(config.data).train()))


def test_two_task_experiment_saves_a_quarter(two_task: tuple[MultiTaskModel, dict[str, Tensor]]) -> None:
    peaks = {type(e).__name__: peak(e, *two_task) for e in (SummedLoss(), PerTask(), Split())}
    assert peaks["SummedLoss"] >= 100 * MIB
    assert peaks["PerTask"] <= 0.75 * peaks["SummedLoss"]
    assert peaks["Split"] <= 0.75 * peaks["SummedLoss"]
    assert peaks["Split"] == pytest.approx(peaks["PerTask"], rel=0.05)


def test_two_task_experiment_is_shaped_as_it_says(two_task: tuple[MultiTaskModel, dict[str, Tensor]]) -> None:
    """Six convolutions and more, and heads that hold as much as the trunk: smaller ones would hide the saving."""
    model, batch = two_task
    assert sum(isinstance(module, nn.Conv2d) for module in model.trunk.modules()) >= 6
    assert any(isinstance(module, nn.GroupNorm) for module in model.trunk.modules())

    def saved(function: nn.Module, *args: Any) -> tuple[int, Tensor]:
        storages: dict[int, Tensor] = {}
        owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in owned:
                storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = function(*args)
        return sum(tensor.untyped_storage().nbytes() for tensor in storages.values()), result

    trunk, z = saved(model.trunk, batch)
    assert z.shape[1] == model.trunk.module.stem[0].out_channels
    for name, task in model.tasks.items():
        head, _ = saved(task, z.detach().requires_grad_(), batch)
        assert head >= 0.9 * trunk, name
