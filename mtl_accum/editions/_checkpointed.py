"""Activation checkpointing of the trunk, around any edition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from mtl_accum.editions._engine import (
    Edition,
    EditionLike,
    Form,
    Schedule,
    Tasks,
    Trunk,
    Watch,
    around_trunk,
    is_compiled,
    modules_of,
    refuse_hidden_modules,
    require_edition,
    require_parts,
    rerun,
    run_inner,
)

__all__ = ["Checkpointed"]


@final
@dataclass(frozen=True)
class Checkpointed(Schedule):
    """Checkpointed: the trunk keeps the inputs of its blocks, and runs each block again in its backward.

    Equals the edition on a trunk whose blocks run under `torch.utils.checkpoint`. The blocks are the items of the
    outermost `nn.Sequential` or `nn.ModuleList` with at least two items that are themselves made of modules: a
    transformer's layers, a ResNet's blocks. A trunk without such a list, and a compiled one, is one block.

    Memory: the edition's, with one block's activations and the inputs of all in place of the whole trunk's. Passes:
    one more trunk forward for each trunk backward.

    A block's second pass draws the random numbers of its first, and changes no buffer: BatchNorm is as without.
    AMP: autocast in the callables is active in the second pass too.

    Reference: Chen, Xu, Zhang and Guestrin (2016), Training Deep Nets with Sublinear Memory Cost.

    Args:
        edition: Edition that computes the gradient.

    Raises:
        TypeError: `edition` has no `forward_backward`.
        ValueError: The trunk is a compiled function behind which no module can be found.
        ReplayError: A block's second pass differs from its first one (compared in the trunk's first three steps).
    """

    config_group = "checkpointed"

    edition: EditionLike

    def __post_init__(self) -> None:
        require_edition(self.edition)

    @property
    def inner(self) -> Edition:
        """The edition inside."""
        return require_edition(self.edition)

    def run(self, form: Form, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """See `Schedule.run`."""
        require_parts(trunk, tasks)
        if not torch.is_grad_enabled():  # no activations are kept
            return run_inner(form, self.inner, trunk, tasks, batch)
        refuse_hidden_modules(self, {"trunk": trunk})
        modules = modules_of(trunk)
        compiled = is_compiled(trunk) or any(hasattr(module, "_orig_mod") for module in modules)
        blocks = [] if compiled else _blocks(modules)
        watch = Watch(trunk, modules, self)
        with around_trunk(partial(_in_blocks, blocks, watch) if blocks else partial(_whole, modules, watch)):
            return run_inner(form, self.inner, trunk, tasks, batch)


def _blocks(modules: list[nn.Module]) -> list[nn.Module]:
    """Return the items of the outermost lists of composed modules."""
    blocks: list[nn.Module] = []
    inside: set[int] = set()
    for module in modules:  # an outer module stands before its submodules
        if id(module) not in inside and isinstance(module, nn.Sequential | nn.ModuleList):
            composed = [item for item in module if next(item.children(), None) is not None]
            if len(composed) > 1:
                blocks += composed
                inside |= {id(inner) for inner in module.modules()}
    return list({id(block): block for block in blocks}.values())  # a block can be listed twice


def _in_blocks(blocks: list[nn.Module], watch: Watch, trunk: Trunk, batch: Any) -> Any:
    with _patched(blocks, watch):
        return trunk(batch)


def _whole(modules: list[nn.Module], watch: Watch, trunk: Trunk, batch: Any) -> Any:
    return rerun(modules, watch, trunk, batch)


@contextmanager
def _patched(blocks: list[nn.Module], watch: Watch) -> Iterator[None]:
    """Run blocks under checkpointing inside of the context; an instance's `forward` comes before its class's."""
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        vars(block)["forward"] = partial(rerun, list(block.modules()), watch, block.forward)
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            del vars(block)["forward"]
            if own is not None:
                vars(block)["forward"] = own
