"""Causes of a difference from the summed loss, each shown by an experiment on the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mtl_accum._state import RngState
from mtl_accum._torch_pytree import tree_leaves
from mtl_accum.editions import Edition, SummedLoss, Tasks, Trunk, modules_of
from mtl_accum.editions._engine import Replay, Watch
from mtl_accum.verify._difference import largest_difference
from mtl_accum.verify._judge import Agreement, Judge
from mtl_accum.verify._no_dropout import NoDropout
from mtl_accum.verify._oracle import in_pieces, oracle
from mtl_accum.verify._trial import Sandbox

__all__ = ["cause_of"]

_CLOSE = 1e-4  # relative: representations of two passes that differ by less differ by rounding


def cause_of(edition: Edition, judge: Judge, agreement: Agreement) -> str:
    """Describe a difference: its largest place, and its cause if an experiment shows one.

    Args:
        edition: Edition that differs from `SummedLoss`.
        judge: Judge of the network, in the precision in which the edition differs.
        agreement: Comparison that shows the difference.
    """
    place = f"the gradient of {agreement.parameter} differs most"
    if agreement.differing == ("buffers",):
        place = f"the buffer {agreement.buffer} differs most"
    cause = next(_causes(edition, judge, agreement), "no experiment showed the cause")
    return f"{place}; {cause}"


def _causes(edition: Edition, judge: Judge, agreement: Agreement) -> Iterator[str]:
    """Yield the causes that experiments show, the surest first."""
    network = judge.network
    if not judge.compare(network.run(SummedLoss()), judge.reference).exact():
        yield "SummedLoss differs from itself: randomness outside torch, or kernels that are not deterministic"
    if agreement.missing:
        yield f"no gradient for {', '.join(agreement.missing)}, which SummedLoss gives one"
    if not judge.rounding.proportional:
        yield (
            "twice the losses do not give twice the gradient: something adds gradient of its own in the backward (an "
            "injected auxiliary loss, a hook), once in every backward pass; make it a task"
        )
    yield from _causes_in_second_pass(network, in_pieces(edition))
    if in_pieces(edition):
        yield from _causes_in_pieces(edition, judge, agreement)
    if judge.draws and (quiet := judge.agreement_without_dropout(edition)) is not None and quiet.exact():
        yield "without dropout there is no difference: the random numbers of a pass are not those of SummedLoss"
    if not agreement.random:
        yield "the random stream ends elsewhere"


def _causes_in_second_pass(network: Sandbox, pieces: bool) -> Iterator[str]:
    """Run the trunk twice on one batch, from the same random numbers and buffers, and yield what changes."""
    twice = _TwicePass()
    try:
        network.run(twice)
    except Exception as error:
        yield f"the trunk does not run twice ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        return
    if twice.apart and twice.wrote:
        yield "the trunk writes into its batch: a second pass sees another one; use the operation's out-of-place form"
    elif twice.apart:
        yield (
            "a second pass of the trunk differs from the first: state kept outside parameters and buffers (hidden "
            "state in an attribute, a generator of its own) changes from one pass to the next"
        )
    elif twice.drifted and pieces:
        yield (
            "each pass of the trunk changes a buffer that the next one reads (running statistics, a power iteration), "
            "and every piece is a pass"
        )


def _causes_in_pieces(edition: Edition, judge: Judge, agreement: Agreement) -> Iterator[str]:
    """Run the summed loss over the same pieces, and the tasks one by one, and yield the tasks that differ."""
    if judge.without_dropout is None:
        return
    with NoDropout():
        pieces = judge.network.run(oracle(edition))
    if judge.compare(pieces, judge.without_dropout).exact():
        return
    if agreement.tasks:
        names = ", ".join(map(repr, agreement.tasks))
        yield (
            f"the loss of {names} over pieces is not that of the whole batch: it couples samples (declare "
            "couples_samples=True), uses batch statistics, or its count is not its mean's denominator"
        )
        return
    if agreement.differing == ("buffers",):
        yield (
            "losses and gradients over pieces are right, but the buffer is not: it takes its shape or its statistics "
            "from the batch"
        )
        return
    names = ", ".join(repr(name) for name in _tasks_that_differ(edition, judge.network)) or "the tasks together"
    yield (
        f"the losses over pieces are right, but the gradient of {names} is not: it couples samples (declare "
        "couples_samples=True), or uses batch statistics"
    )


def _tasks_that_differ(edition: Edition, network: Sandbox) -> Iterator[str]:
    for name, task in network.tasks.items():
        alone = Judge(Sandbox(network.trunk, {name: task}, network.batch, also=network.parameters.values()))
        with NoDropout():
            agreement = alone.compare(alone.network.run(oracle(edition)), alone.network.run(SummedLoss()))
        if not agreement.exact():
            yield name


@dataclass
class _TwicePass(Edition):
    """Three passes of the trunk on one batch, compared.

    Attributes:
        apart: Whether a second pass differs from the first, from the same random numbers and buffers.
        drifted: Whether a pass from the buffers that the first one left differs from the first.
        wrote: Whether the first pass changed the batch.
    """

    apart: bool = field(default=False, init=False)
    drifted: bool = field(default=False, init=False)
    wrote: bool = field(default=False, init=False)

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        """Compare the representations, and the batch before and after."""
        before = [leaf.detach().clone() for leaf in _tensors(batch)]
        modules = modules_of(trunk)
        replay, random = Replay(modules, Watch(trunk, modules, self)), RngState.capture()
        with torch.no_grad():
            with replay.forward():
                first = [leaf.detach().clone() for leaf in _tensors(trunk(batch))]
            self.wrote = any(_differ(*pair) for pair in zip(before, _tensors(batch), strict=False))
            with replay.forward():
                second = _tensors(trunk(batch))
            random.restore()
            third = _tensors(trunk(batch))
        self.apart = len(first) != len(second) or any(map(_differ, first, second))
        self.drifted = not self.apart and any(map(_differ, first, third))
        return {}


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _differ(first: Tensor, second: Tensor) -> bool:
    return largest_difference({"": first}, {"": second})[0] > _CLOSE
