"""Copy of a network, its optimizer and a batch without their data: fake tensors in place of real ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parameter import is_lazy

from mtl_accum._torch_pytree import tree_iter
from mtl_accum.editions import modules_of
from mtl_accum.editions._engine import share_modules

__all__ = ["CLOSURES", "fake_copy"]

CLOSURES = "a closure's modules cannot be copied; pass modules (Task, MultiTaskModel), or build="


def fake_copy(
    mode: FakeTensorMode, trunk: Any, tasks: Mapping[str, Any], batch: Any, optimizer: Any
) -> tuple[Any, dict[str, Any], Any, Any]:
    """Copy trunk, tasks, batch and optimizer without their data; what they share stays shared.

    Every fake tensor is on the CPU, wherever the real one is (the meta device too): autograd aborts the process on
    fake tensors of an absent device.

    Args:
        mode: Mode that the fake tensors belong to.
        trunk: Function that maps the batch to the representation.
        tasks: Functions by name that map the representation and the batch to a loss.
        batch: Batch.
        optimizer: Optimizer, or None.

    Raises:
        TypeError: A callable keeps its modules in a closure; a module is lazy and has no shapes yet; or an object
            cannot be copied.
    """
    functions: list[Callable[..., Any]] = [trunk, *tasks.values()]
    memo: dict[int, Any] = {}  # of deepcopy: fakes by the identity of the tensors that they replace

    def replace(value: Any) -> None:
        if isinstance(value, Tensor) and id(value) not in memo:
            memo[id(value)] = _fake(mode, value)

    for module in modules_of(*functions):
        for name, value in (*module._parameters.items(), *module._buffers.items(), *vars(module).items()):
            if is_lazy(value):
                raise TypeError(f"{type(module).__name__}.{name} is lazy: run the model once, so it gets its shape")
            replace(value)
    if optimizer is not None:
        for value in tree_iter([[group["params"] for group in optimizer.param_groups], list(optimizer.state.values())]):
            replace(value)
    for value in tree_iter(batch):
        replace(value)
    try:
        copied: tuple[Any, dict[str, Any], Any, Any] = copy.deepcopy((trunk, dict(tasks), batch, optimizer), memo)
    except Exception as error:  # any error of the objects' own copying
        raise TypeError(f"trunk, tasks, batch and optimizer cannot be copied ({error}); pass build= instead") from error
    if share_modules(functions, (copied[0], *copied[1].values())):
        raise TypeError(CLOSURES)
    return copied


def _fake(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        fake: Tensor = mode.from_tensor(tensor.detach())
    else:
        with mode:
            fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(fake, tensor.requires_grad)
    return fake.requires_grad_(tensor.requires_grad)
