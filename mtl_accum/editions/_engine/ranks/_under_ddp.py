"""Parameters without a gradient under DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mtl_accum.editions._engine._modules import modules_of

__all__ = ["require_unused_allowed", "tolerates_unused"]

_first_unused: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()


def tolerates_unused() -> bool:
    """Return whether the caller runs in the forward of a DDP that detects unused parameters in every step."""
    ddp = _around()
    return ddp is not None and ddp.find_unused_parameters and not ddp.static_graph


def require_unused_allowed(
    trunk: Callable[..., Any], tasks: Mapping[str, Callable[..., Any]], absent: Collection[str]
) -> None:
    """Raise if the DDP around the caller would wait for gradients of tasks that are absent on all ranks.

    Without `find_unused_parameters=True` torch's own error comes at the next forward, after whole buckets have been
    left out of the average. With `static_graph=True` no error comes: DDP takes the graph of its first step for
    that of every step, so a set of absent tasks that changes from step to step gives wrong gradients.

    Args:
        trunk: The trunk.
        tasks: All tasks; call this in every step, so the first one is known.
        absent: Names of the tasks that are absent on all ranks.

    Raises:
        RuntimeError: On every rank together; a parameter of an absent task gets no gradient, and DDP does not allow it.
    """
    ddp = _around()
    if ddp is None or not ddp.require_backward_grad_sync or tolerates_unused():
        return
    unused = _unused(ddp, trunk, tasks, absent) if absent else frozenset[str]()
    if ddp.static_graph:
        first = _first_unused.setdefault(ddp, unused)
        if unused != first:
            raise RuntimeError(
                f"absent on all ranks: {_listed(unused)}, and in the first step {_listed(first)}; DDP with "
                f"static_graph=True takes the first step's graph for every step's: gradients would be wrong. {_FIX}"
            )
    elif unused:
        raise RuntimeError(
            f"absent on all ranks: {_listed(unused)}; DDP waits for gradients of its parameters, which do not come "
            f"(torch: Expected to have finished reduction in the prior iteration). {_FIX}"
        )


_FIX = (
    "Use DistributedDataParallel(..., find_unused_parameters=True) without static_graph, or give every step a batch "
    "that has each task on some rank"
)


def _around() -> Any:
    """Return the DDP whose forward the caller runs in; None if there is none."""
    return getattr(DistributedDataParallel, "_active_ddp_module", None)


def _unused(
    ddp: Any, trunk: Callable[..., Any], tasks: Mapping[str, Callable[..., Any]], absent: Collection[str]
) -> frozenset[str]:
    """Return the absent tasks with a parameter that DDP averages and nothing else gives a gradient."""
    waiting = {
        id(parameter)
        for name, parameter in ddp.module.named_parameters()
        if parameter.requires_grad and name not in ddp.parameters_to_ignore
    }
    waiting -= _parameters(trunk, *(task for name, task in tasks.items() if name not in absent))
    return frozenset(name for name in absent if waiting & _parameters(tasks[name]))


def _parameters(*functions: Callable[..., Any]) -> set[int]:
    return {id(parameter) for module in modules_of(*functions) for parameter in module._parameters.values()}


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"task '{name}'" for name in sorted(names)) or "no task"
