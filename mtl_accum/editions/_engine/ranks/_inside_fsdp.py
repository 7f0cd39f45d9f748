"""Backward passes inside of an FSDP2 forward, which must not free the parameters that the forward still reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mtl_accum.editions._engine.ranks._agreement import is_distributed

__all__ = ["inside_forward"]


@contextmanager
def inside_forward() -> Iterator[None]:
    """Run a backward in the forward of modules of `fully_shard`, and keep the state of these modules.

    At the end of every backward that passed a sharded module, FSDP2 frees the parameters of all modules, those that
    are running too, and marks their forward as ended. A later head or piece of the trunk would read freed
    memory. Nothing happens in a process without sharded modules.
    """
    states = _running()
    groups = [group for state in states for group in _groups(state)]
    kept = [
        *((state, "_training_state") for state in states),
        *((state._state_ctx, "iter_forward_root") for state in states),
        *((group, name) for group in groups for name in ("_training_state", "reshard_after_backward")),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name in kept]
    for group in groups:
        group.reshard_after_backward = False
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def _running() -> list[Any]:
    """Return the states of the sharded modules whose forward runs now."""
    if not is_distributed():
        return []
    from torch.distributed import _composable_state

    references = list(getattr(_composable_state, "_module_state_mapping", {}).values())
    states = {id(state): state for reference in references if (state := reference()) is not None}
    return [state for state in states.values() if _is_running(state)]


def _is_running(state: Any) -> bool:
    return getattr(getattr(state, "_training_state", None), "name", None) == "FORWARD"


def _groups(state: Any) -> list[Any]:
    """Return the groups of parameters of a module, of which older versions of torch have one."""
    groups = getattr(state, "_fsdp_param_groups", None)
    return list(groups) if groups is not None else [group for group in [state._fsdp_param_group] if group]
