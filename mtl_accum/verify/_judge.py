"""One network in one precision: editions held against the summed loss, and against its own rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mtl_accum.editions import Edition, SummedLoss, Tasks, Trunk
from mtl_accum.verify._difference import distance, largest_difference, scale_of
from mtl_accum.verify._no_dropout import NoDropout
from mtl_accum.verify._oracle import in_pieces, oracle
from mtl_accum.verify._rounding import Rounding, measure_rounding
from mtl_accum.verify._trial import Sandbox, StepOutcome

__all__ = ["Agreement", "Judge"]

# The largest difference that rounding explains in every network; what lies above is held against measured rounding.
_BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5}
_BOUND_16_BIT = 0.1  # above it a difference is none of rounding; below, nothing can be concluded
_KINDS = ("losses", "gradients", "buffers")
_RESOLVED = 1e-3  # of a gradient: rounding that is larger could hide a wrong one


@dataclass(frozen=True)
class Agreement:
    """An edition against its oracle, in one precision; relative differences, see `gradient_difference`.

    Attributes:
        dtype: the precision.
        losses: largest difference of the tasks' losses.
        gradients: largest difference of the gradients: parameters', and those of inputs that require one.
        buffers: largest difference of the buffers afterwards.
        random: whether the generators ended in the same states.
        parameter: the one whose gradient differs most.
        tasks: those whose losses differ by more than rounding.
        buffer: the one that differs most.
        missing: parameters that get a gradient from `SummedLoss` and none from this edition.
        beyond: the largest difference, less the rounding that was measured; as the largest where none was.
        differing: which of "losses", "gradients" and "buffers" differ by more than rounding.
        rounding: of the network's gradient, measured; None where every difference was within the bound.
        hidden: parameters whose rounding is too large to tell a right gradient from a wrong one.
    """

    dtype: torch.dtype
    losses: float
    gradients: float
    buffers: float
    random: bool
    parameter: str
    tasks: tuple[str, ...]
    buffer: str = ""
    missing: tuple[str, ...] = ()
    beyond: float = 0.0
    differing: tuple[str, ...] = ()
    rounding: float | None = None
    hidden: tuple[str, ...] = ()

    def exact(self) -> bool:
        """Whether nothing but rounding is between the two."""
        return self.random and not self.missing and self.beyond <= _BOUNDS.get(self.dtype, _BOUND_16_BIT)

    def is_rounding(self) -> bool:
        """Whether a difference above the bound is the network's own rounding, as it was measured."""
        return self.exact() and self.rounding is not None and self.beyond <= _BOUNDS.get(self.dtype, 0.0)

    def decided(self) -> bool:
        """Whether this precision can tell a right gradient from a wrong one."""
        return not self.exact() or (self.dtype in _BOUNDS and not self.hidden)


class Judge:
    """Compares editions on one network; the summed loss runs once for all of them.

    Args:
        network: Trunk, tasks and batch, in one precision.
    """

    def __init__(self, network: Sandbox) -> None:
        self.network = network

    @cached_property
    def reference(self) -> StepOutcome:
        """What `SummedLoss` leaves."""
        return self.network.run(SummedLoss())

    @cached_property
    def draws(self) -> bool:
        """Whether the network draws random numbers."""
        return self.reference.random != self._nothing.random

    @cached_property
    def without_dropout(self) -> StepOutcome | None:
        """What `SummedLoss` leaves where dropout is off; None where something else draws random numbers."""
        if not self.draws:
            return self.reference
        with NoDropout():
            outcome = self.network.run(SummedLoss())
        return outcome if outcome.random == self._nothing.random else None

    @cached_property
    def rounding(self) -> Rounding:
        """The network's own, measured when it is first needed."""
        return measure_rounding(self.network, self.reference)

    def agreement(self, edition: Edition) -> Agreement:
        """Hold an edition against `SummedLoss`: the worse of two comparisons.

        Where the network draws random numbers, it is held against the same pieces with these numbers, and in pieces
        against the whole batch without dropout too.
        """
        outcome = self.network.run(edition)
        agreement = self.compare(outcome, self.network.run(oracle(edition)) if self.draws else self.reference)
        if in_pieces(edition) and self.draws:
            other = self.quiet_agreement(edition)
            if other is not None:
                agreement = max(agreement, other, key=_severity)
        return agreement

    def quiet_agreement(self, edition: Edition) -> Agreement | None:
        """Hold an edition against the whole batch without dropout; None where other random numbers are drawn."""
        if self.without_dropout is None:
            return None
        with NoDropout():
            outcome = self.network.run(edition)
        return self.compare(outcome, self.without_dropout)

    def whole_is_known(self, edition: Edition) -> bool:
        """Whether an edition can be held against the whole batch."""
        return not in_pieces(edition) or self.without_dropout is not None

    def compare(self, outcome: StepOutcome, expected: StepOutcome) -> Agreement:
        """Compare what two calls left; rounding is measured where a difference exceeds the bound."""
        plain = _compare(outcome, expected, None)
        return plain if plain.beyond <= _BOUNDS.get(plain.dtype, 0.0) else _compare(outcome, expected, self.rounding)

    @cached_property
    def _nothing(self) -> StepOutcome:
        return self.network.run(_Nothing())


def _compare(outcome: StepOutcome, expected: StepOutcome, rounding: Rounding | None) -> Agreement:
    dtype = next((g.dtype for g in expected.gradients.values() if g is not None), torch.float32)
    floors: tuple[Mapping[str, float], ...] = ({}, {}, {})
    if rounding is not None:
        floors = (rounding.losses, rounding.gradients, rounding.buffers)
    pairs = [
        _aligned(outcome.losses, expected.losses),
        _aligned(outcome.gradients, expected.gradients),
        _without_equal_infinities(*_aligned(outcome.buffers, expected.buffers)),
    ]
    (losses, _), (gradients, parameter), (buffers, buffer) = (largest_difference(*pair) for pair in pairs)
    beyond = [largest_difference(*pair, floor)[0] for pair, floor in zip(pairs, floors, strict=True)]
    bound = _BOUNDS.get(dtype, _BOUND_16_BIT)
    return Agreement(
        dtype,
        losses=losses,
        gradients=gradients,
        buffers=buffers,
        random=outcome.random == expected.random,
        parameter=parameter,
        tasks=tuple(
            name
            for name, loss in pairs[0][0].items()
            if largest_difference({name: loss}, {name: pairs[0][1][name]}, floors[0])[0] > bound
        ),
        buffer=buffer,
        missing=tuple(name for name, g in pairs[1][0].items() if g is None and pairs[1][1][name] is not None),
        beyond=max(beyond),
        differing=tuple(kind for kind, value in zip(_KINDS, beyond, strict=True) if value > bound),
        rounding=None if rounding is None else rounding.relative,
        hidden=_hidden(*pairs[1], floors[1], bound),
    )


def _hidden(
    gradients: Mapping[str, Tensor | None],
    reference: Mapping[str, Tensor | None],
    floor: Mapping[str, float],
    bound: float,
) -> tuple[str, ...]:
    """The parameters that pass by nothing but their rounding, which is too large to decide by.

    A gradient that is rounding altogether (true value 0, as a bias's before BatchNorm) is not among them.
    """
    scales = scale_of(reference)
    names = []
    for name, value in gradients.items():
        expected, known = reference[name], floor.get(name, 0.0)
        if value is None or expected is None or not bound * scales[name] < distance(value, expected) <= known:
            continue
        size = distance(expected, torch.zeros_like(expected))
        if _RESOLVED * size < known < size:
            names.append(name)
    return tuple(names)


def _aligned(
    values: Mapping[str, Tensor | None], reference: Mapping[str, Tensor | None]
) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
    """Give both the same names: a value that only one of them has is None in the other."""
    names = dict.fromkeys([*reference, *values])
    return {name: values.get(name) for name in names}, {name: reference.get(name) for name in names}


def _without_equal_infinities(
    values: dict[str, Tensor | None], reference: dict[str, Tensor | None]
) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
    """Replace what is infinite or no number in both by 0: a mask of -inf differs from itself by NaN."""
    for name, value in values.items():
        expected = reference[name]
        if value is None or expected is None or value.shape != expected.shape or not value.is_floating_point():
            continue
        same = (value == expected) & value.isinf() | value.isnan() & expected.isnan()
        if same.any():
            values[name], reference[name] = value.masked_fill(same, 0.0), expected.masked_fill(same, 0.0)
    return values, reference


def _severity(agreement: Agreement) -> tuple[bool, float, bool]:
    return bool(agreement.missing), agreement.beyond, not agreement.random


class _Nothing(Edition):
    """Where the random stream is when nobody draws."""

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        return {}
