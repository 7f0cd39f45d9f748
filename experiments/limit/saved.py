"""The least memory of an exact gradient without recomputation, from the tensors that autograd saves."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from mtl_accum import SummedLoss
from mtl_accum.memory import Parts, TrainingStep

__all__ = ["Limit", "limit_of"]


@dataclass(frozen=True)
class Limit:
    """Bytes by category; a storage in two categories is counted once.

    Attributes:
        fixed: Parameters, buffers, optimizer state and the batch.
        trunk_gradients: Gradients of the trunk's parameters.
        head_gradients: Gradients of all heads' parameters.
        trunk: Tensors that the trunk's forward saves for its backward.
        representation: Input of the heads, without tensors that the trunk saves.
        gradient: Gradient of the representation.
        head: Tensors that the largest head's forward saves.
        heads: Tensors that all heads' forwards save.
        name: Name of the largest head.
    """

    fixed: int
    trunk_gradients: int
    head_gradients: int
    trunk: int
    representation: int
    gradient: int
    head: int
    heads: int
    name: str

    @property
    def budget(self) -> int:
        """Bytes that one graph at a time keeps: fixed, gradients, trunk's graph, largest head's graph, z and dL/dz."""
        resting = self.fixed + self.trunk_gradients + self.head_gradients
        return resting + self.trunk + self.representation + self.gradient + self.head

    @property
    def bound(self) -> int:
        """Bytes that no order of the work can avoid: the most of three moments.

        The largest head's forward is done, and it is the first; the heads are done; all is done.
        """
        at_head = self.trunk + self.representation + self.head
        at_trunk = self.head_gradients + self.trunk + self.gradient
        return self.fixed + max(at_head, at_trunk, self.head_gradients + self.trunk_gradients)


def limit_of(parts: Parts) -> Limit:
    """Count the limit of a network after one step, when the optimizer has its state.

    Args:
        parts: Trunk, tasks, batch and optimizer; weights and random state change.
    """
    trunk, tasks, batch, optimizer = parts
    step = TrainingStep(trunk, tasks, batch, optimizer, SummedLoss())
    step()
    optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else optimizer or []
    state = tree_leaves([list(one.state.values()) for one in optimizers])
    fixed = _storages([*step.parameters, *step.buffers, *tree_leaves(batch), *state])
    with _Saved() as by_trunk:
        z = trunk(batch)
    kept = _without(by_trunk.storages, fixed)
    representation = _without(_storages(tree_leaves(z)), {**fixed, **kept})
    cut = tree_map(_leaf, z)
    known = {**fixed, **kept, **_storages(tree_leaves(z))}
    heads = {}
    for name, task in tasks.items():
        with _Saved() as by_head:
            loss = task(cut, batch)
        heads[name] = sum(_without(by_head.storages, known).values())
        del loss
    largest = max(heads, key=heads.__getitem__)
    of_heads = {id(parameter) for task in tasks.values() for parameter in task.parameters()}  # type: ignore[attr-defined]
    gradients = [
        (id(parameter) in of_heads, parameter.nbytes) for parameter in step.parameters if parameter.requires_grad
    ]
    return Limit(
        fixed=sum(fixed.values()),
        trunk_gradients=sum(size for head, size in gradients if not head),
        head_gradients=sum(size for head, size in gradients if head),
        trunk=sum(kept.values()),
        representation=sum(representation.values()),
        gradient=sum(leaf.nbytes for leaf in tree_leaves(cut) if isinstance(leaf, Tensor) and leaf.requires_grad),
        head=heads[largest],
        heads=sum(heads.values()),
        name=largest,
    )


class _Saved:
    """Tensors that autograd saves inside the block, without those freed again: a loss in chunks frees its graphs."""

    def __init__(self) -> None:
        self._holders: list[weakref.ref[_Holder]] = []
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda holder: holder.tensor)

    @property
    def storages(self) -> dict[int, int]:
        """Bytes by address of the tensors that are saved at present."""
        holders = (reference() for reference in self._holders)
        return _storages([holder.tensor for holder in holders if holder is not None])

    def _keep(self, tensor: Tensor) -> _Holder:
        holder = _Holder(tensor.detach())  # not its graph, which would hold the holder
        self._holders.append(weakref.ref(holder))
        return holder

    def __enter__(self) -> _Saved:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)


class _Holder:
    """A saved tensor that autograd alone refers to."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _storages(tensors: Iterable[Any]) -> dict[int, int]:
    """Return the bytes of each storage by address."""
    storages = [tensor.untyped_storage() for tensor in tensors if isinstance(tensor, Tensor)]
    return {storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}


def _without(storages: dict[int, int], known: dict[int, int]) -> dict[int, int]:
    return {address: size for address, size in storages.items() if address not in known}


def _leaf(value: Any) -> Any:
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
