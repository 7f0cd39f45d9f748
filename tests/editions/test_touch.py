"""A task that is absent on a rank takes part with zeros: which tensors get them, and what FSDP2's modules see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from mtl_accum import Split, Task
from mtl_accum.editions import modules_of
from mtl_accum.editions._engine.ranks._agreement import Ranks, count_ranks
from mtl_accum.editions._engine.ranks._touch import is_sharded, run_with_others, touch


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def zeros(tensors: Any) -> Any:
    return all(tensor.grad is not None and not tensor.grad.any() for tensor in tensors)


def test_parameters_and_representation_get_zeros() -> None:
    head, frozen = nn.Linear(4, 2), nn.Linear(4, 2).requires_grad_(False)
    task = Task(nn.Sequential(head, frozen), nn.MSELoss(), "y")
    z = torch.full((3, 4), float("inf"), requires_grad=True)
    zero = touch(task, {"z": z, "n": torch.arange(3)})
    assert zero.dim() == 0
    assert zero == 0
    zero.backward()
    assert zeros([z, *head.parameters()])
    assert frozen.weight.grad is None


def test_a_frozen_task_on_a_frozen_trunk_has_no_graph() -> None:
    zero = touch(nn.Linear(4, 2).requires_grad_(False), torch.ones(3, 4, dtype=torch.float64))
    assert not zero.requires_grad
    assert zero.dtype == torch.float64


def test_parameters_in_closures_get_zeros() -> None:
    head, scale = nn.Linear(4, 2), nn.Parameter(torch.ones(3))
    touch(lambda z, batch: scale.sum() * head(z).mean(), torch.ones(3, 4)).backward()
    assert zeros([scale, *head.parameters()])


def test_zeros_take_no_memory() -> None:
    weight = nn.Parameter(torch.empty(1000, 1000))
    (gradient,) = torch.autograd.grad(touch(lambda z, batch: weight, torch.ones(1)), [weight])
    assert gradient.shape == weight.shape
    assert gradient.untyped_storage().nbytes() == 4


def test_what_a_loss_does_not_reach_gets_zeros_too() -> None:
    used, unused = nn.Linear(4, 2), nn.Linear(4, 2)
    z, other = torch.ones(3, 4, requires_grad=True), torch.ones(3, requires_grad=True)

    def task(z: Any, batch: Any, spare: Any = unused) -> Tensor:
        return used(z[0]).mean()

    loss = run_with_others("a", task, task, (z, other), None)
    torch.testing.assert_close(loss, used(z).mean())
    loss.backward()
    assert zeros([other, *unused.parameters()])
    assert used.weight.grad.any()


def test_a_tensor_that_no_other_rank_could_find_is_named() -> None:
    class Slotted:
        __slots__ = ("weight",)

    hidden = Slotted()
    hidden.weight = nn.Parameter(torch.ones(7))  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=r"task 'a': it is absent on another rank, and its loss trains .*\(7,\)"):
        run_with_others("a", *[lambda z, batch: hidden.weight.sum() * z.sum()] * 2, torch.ones(3), None)  # type: ignore[attr-defined, call-arg]


class Blocks(nn.Module):
    """Two blocks, in the order of their registration or in the other one."""

    def __init__(self, order: Any = (0, 1)) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.scale = nn.Parameter(torch.ones(4))
        self.order = order

    def forward(self, z: Any, batch: Any) -> Tensor:
        for number in self.order:
            z = self.blocks[number](z)
        return (z * self.scale).mean()


def sharded(mesh: Any, order: Any = (0, 1)) -> Any:
    task = Blocks(order)
    for block in task.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(task, mesh=mesh)


def test_sharded_modules_run_in_their_order_and_nested_ones_too(mesh: Any) -> None:
    order = []
    task = sharded(mesh)
    for name, module in {"task": task, "0": task.blocks[0], "1": task.blocks[1]}.items():
        module.register_forward_hook(lambda *_, name=name: order.append(name))
    z = torch.ones(3, 4, requires_grad=True)
    zero = touch(task, z)
    assert order == []  # hooks of others are for real passes
    assert "forward" not in vars(task)
    zero.backward()
    assert z.grad is not None
    assert all(not parameter.grad.full_tensor().any() for parameter in task.parameters())
    task(z, None).backward()
    assert order == ["0", "1", "task"]


@pytest.mark.parametrize(("order", "ran"), [((1, 0), r"itself, blocks\.1, blocks\.0"), ((0,), r"itself, blocks\.0")])
def test_sharded_modules_in_another_order_are_refused(mesh: Any, order: Any, ran: str) -> None:
    task = sharded(mesh, order)
    with pytest.raises(RuntimeError, match=f"task 'a': it is absent on another rank.*blocks.1, ran {ran}. Call"):
        run_with_others("a", task, task, torch.ones(3, 4, requires_grad=True), None)
    assert all(len(module._forward_pre_hooks) <= 1 for module in task.modules())  # FSDP's own


def test_sharded_modules_in_their_order_pass(mesh: Any) -> None:
    task = sharded(mesh)
    loss = run_with_others("a", task, task, torch.ones(3, 4, requires_grad=True), None)
    loss.backward()
    assert task.scale.grad.full_tensor().any()


def test_the_state_of_fsdp_leads_to_no_other_module(mesh: Any) -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    whole = nn.Sequential(fully_shard(one, mesh=mesh), fully_shard(other, mesh=mesh))
    fully_shard(whole, mesh=mesh)(torch.ones(1, 2))
    assert modules_of(one) == [one]
    assert is_sharded(lambda z: one(z))
    assert not is_sharded(nn.Linear(2, 2))


class Root(nn.Module):
    """A trunk and heads that are sharded, and parameters that the root gathers and later heads still read."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.last = nn.Linear(3, 4), nn.Linear(4, 4)
        self.heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(3))
        self.scales = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Any) -> Any:
        tasks = {str(i): lambda z, b, i=i: (self.scales[i] * self.heads[i](z)).mean() for i in range(3)}
        return Split().loss(lambda b: self.last(self.trunk(b)), tasks, x)


def test_heads_read_what_the_root_has_gathered(mesh: Any) -> None:
    torch.manual_seed(1)
    network, plain = Root(), Root()
    plain.load_state_dict(network.state_dict())
    for module in (network.trunk, *network.heads):
        fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)
    x = torch.randn(5, 3)
    for _ in range(2):
        for model in (network, plain):
            total, losses = model(x)
            assert len(losses) == 3
            total.backward()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad)


def test_one_process_has_no_ranks(mesh: Any) -> None:
    assert Ranks.of() is None
    assert Ranks.of(torch.distributed.new_group([0])) is None


def test_a_group_needs_torch_distributed() -> None:
    assert count_ranks() == 1
    with pytest.raises(RuntimeError, match="group: expected torch.distributed to be initialized"):
        Ranks.of(object())
