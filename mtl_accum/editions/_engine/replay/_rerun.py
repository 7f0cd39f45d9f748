"""Recomputation in the backward: only the inputs of a forward are kept, and its second pass is a replay."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from mtl_accum.editions._engine._around_trunk import Inside, current_around
from mtl_accum.editions._engine._modules import modules_of
from mtl_accum.editions._engine._types import Trunk
from mtl_accum.editions._engine.batch._pytree import TreeSpec, flatten_any, unflatten
from mtl_accum.editions._engine.replay._replay import Replay
from mtl_accum.editions._engine.replay._second_pass import Watch
from mtl_accum.editions._engine.replay._witness import Witness

__all__ = ["Rerun", "rerun"]


def rerun(modules: list[nn.Module], watch: Watch, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    """Run a forward under `torch.utils.checkpoint`, where gradients are enabled.

    Its second pass draws the random numbers of its first, and changes no buffer. It is refused where weights changed in
    between. Tensors that are inputs themselves, or require a gradient, are saved by autograd, which compares their
    versions; others must stay as the first pass left them. Containers are copied.

    Args:
        modules: All modules that the forward reaches.
        watch: Step that runs the forward again.
        forward: Function to run.
        inputs: Inputs by position.
        named: Inputs by name.
    """
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    replay = Replay(modules, watch)
    values, spec = flatten_any((inputs, named))
    passes = _Passes(replay, forward, values, spec)
    saved = passes.split(inputs)
    with set_checkpoint_early_stop(False) if watch.comparing else nullcontext():  # a whole second pass, to compare
        outputs = checkpoint(
            passes,
            *saved,
            use_reentrant=False,
            preserve_rng_state=False,  # the replay does, on every device
            context_fn=lambda: (_Again(replay.forward), _Again(replay.forward)),
        )
    passes.end_first()
    return outputs


class Rerun(Inside):
    """A trunk that keeps the inputs of every pass alone, and runs again in its backward.

    What runs around the trunk (checkpointed blocks, saved tensors on the host) runs around both passes.

    Args:
        trunk: Function from a batch to its representation.
        edition: Edition, whose name is for messages.
    """

    def __init__(self, trunk: Trunk, edition: object) -> None:
        self._trunk = trunk
        self._modules = modules_of(trunk)
        self._watch = Watch(trunk, self._modules, edition)

    @staticmethod
    def of(trunk: Trunk, edition: object) -> Rerun:
        """Return a trunk that runs again: the given one if it is a `Rerun` already."""
        return trunk if isinstance(trunk, Rerun) else Rerun(trunk, edition)

    def __call__(self, batch: Any) -> Any:
        """Return the representation of a batch."""
        return rerun(self._modules, self._watch, partial(current_around(), self._trunk), batch)


class _Passes:
    """The first pass of a forward, and later ones.

    Args:
        replay: Replay that gives all passes the same random numbers and buffers.
        forward: Function to run.
        values: Leaves of the inputs.
        spec: Structure of the inputs.
    """

    def __init__(self, replay: Replay, forward: Callable[..., Any], values: list[Any], spec: TreeSpec) -> None:
        self._replay, self._forward, self._values, self._spec = replay, forward, values, spec
        self._saved: list[int] = []
        self._witness: Witness | None = None  # of the first pass, once it is over

    def split(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        """Return the tensors that autograd is to save, and release them."""
        direct = {id(value) for value in inputs}
        for index, value in enumerate(self._values):
            if isinstance(value, Tensor) and (value.requires_grad or id(value) in direct):
                self._saved.append(index)
        saved = [self._values[index] for index in self._saved]
        for index in self._saved:
            self._values[index] = None
        return saved

    def end_first(self) -> None:
        """Record the tensors that later passes will read again."""
        self._witness = self._replay.witness([value for value in self._values if isinstance(value, Tensor)])

    def __call__(self, *saved: Tensor) -> Any:
        """Run a pass."""
        if self._witness is not None:
            self._witness.require_unchanged()
        values = list(self._values)
        for index, tensor in zip(self._saved, saved, strict=True):
            values[index] = tensor
        inputs, named = unflatten(values, self._spec)
        outputs = self._forward(*inputs, **named)
        self._replay.compare(outputs)
        return outputs


class _Again:
    """A context manager that can be entered more than once: a second backward makes another second pass."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make = make
        self._entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        context = self._make()
        context.__enter__()
        self._entered.append(context)

    def __exit__(self, *error: Any) -> bool | None:
        return self._entered.pop().__exit__(*error)
