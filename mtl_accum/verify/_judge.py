"""Comparison of editions with the summed loss on one network in one precision, rounding taken into account."""

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

# The largest difference that rounding explains in any network; a larger one is compared with the measured rounding.
_BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5}
_BOUND_16_BIT = 0.1  # a larger difference is an error; a smaller one may be rounding or an error
_KINDS = ("losses", "gradients", "buffers")
_RESOLVED = 1e-3  # of a gradient's norm: larger rounding could hide a wrong gradient


@dataclass(frozen=True)
class Agreement:
    """Comparison of an edition with its oracle in one precision; for the differences, see `gradient_difference`.

    Attributes:
        dtype: Precision of the network.
        losses: Largest difference of the tasks' losses.
        gradients: Largest difference of the gradients of parameters and of inputs that require one.
        buffers: Largest difference of the buffers afterwards.
        random: Whether the random number generators ended in the same states.
        parameter: Name of the parameter whose gradient differs most.
        tasks: Names of the tasks whose losses differ by more than rounding.
        buffer: Name of the buffer that differs most.
        missing: Names of the parameters that get a gradient from `SummedLoss` and none from this edition.
        beyond: Largest difference after the measured rounding, if any, is subtracted.
        differing: Kinds of values, "losses", "gradients" or "buffers", that differ by more than rounding.
        rounding: Measured rounding of the network's gradient; None if no difference exceeded the bound.
        hidden: Names of the parameters whose rounding is too large to tell a right gradient from a wrong one.
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
        """Return whether the two differ by nothing but rounding."""
        return self.random and not self.missing and self.beyond <= _BOUNDS.get(self.dtype, _BOUND_16_BIT)

    def is_rounding(self) -> bool:
        """Return whether a difference exceeds the bound and is the network's own, measured rounding."""
        return self.exact() and self.rounding is not None and self.beyond <= _BOUNDS.get(self.dtype, 0.0)

    def decided(self) -> bool:
        """Return whether this precision can tell a right gradient from a wrong one."""
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
        """Outcome of `SummedLoss`."""
        return self.network.run(SummedLoss())

    @cached_property
    def draws(self) -> bool:
        """Whether the network draws random numbers."""
        return self.reference.random != self._no_draws.random

    @cached_property
    def without_dropout(self) -> StepOutcome | None:
        """Outcome of `SummedLoss` with dropout turned off; None if random numbers are drawn even then."""
        if not self.draws:
            return self.reference
        with NoDropout():
            outcome = self.network.run(SummedLoss())
        return outcome if outcome.random == self._no_draws.random else None

    @cached_property
    def rounding(self) -> Rounding:
        """Rounding of the network, measured when it is first needed."""
        return measure_rounding(self.network, self.reference)

    def agreement(self, edition: Edition) -> Agreement:
        """Compare an edition with `SummedLoss`.

        If the network draws random numbers, the edition is compared with `SummedLoss` over the same pieces. An edition
        in pieces is then also compared with the whole batch without dropout, and the worse comparison is returned.
        """
        outcome = self.network.run(edition)
        agreement = self.compare(outcome, self.network.run(oracle(edition)) if self.draws else self.reference)
        if in_pieces(edition) and self.draws:
            other = self.agreement_without_dropout(edition)
            if other is not None:
                agreement = max(agreement, other, key=_severity)
        return agreement

    def agreement_without_dropout(self, edition: Edition) -> Agreement | None:
        """Compare an edition with the whole batch without dropout; None if random numbers are drawn even then."""
        if self.without_dropout is None:
            return None
        with NoDropout():
            outcome = self.network.run(edition)
        return self.compare(outcome, self.without_dropout)

    def can_compare_whole(self, edition: Edition) -> bool:
        """Return whether an edition can be compared with the whole batch."""
        return not in_pieces(edition) or self.without_dropout is not None

    def compare(self, outcome: StepOutcome, expected: StepOutcome) -> Agreement:
        """Compare two outcomes; rounding is measured if a difference exceeds the bound."""
        plain = _compare(outcome, expected, None)
        return plain if plain.beyond <= _BOUNDS.get(plain.dtype, 0.0) else _compare(outcome, expected, self.rounding)

    @cached_property
    def _no_draws(self) -> StepOutcome:
        return self.network.run(_NoStep())


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
    """Return the parameters whose difference is within their rounding, while the rounding could hide an error.

    A gradient that is all rounding (true value 0, as that of a bias before BatchNorm) is not among them.
    """
    scales = scale_of(reference)
    names = []
    for name, value in gradients.items():
        expected, rounding = reference[name], floor.get(name, 0.0)
        if value is None or expected is None:
            continue
        if not bound * scales[name] < distance(value, expected) <= rounding:
            continue
        size = distance(expected, torch.zeros_like(expected))
        if _RESOLVED * size < rounding < size:
            names.append(name)
    return tuple(names)


def _aligned(
    values: Mapping[str, Tensor | None], reference: Mapping[str, Tensor | None]
) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
    """Give two mappings the same names: a value that only one of them has is None in the other."""
    names = dict.fromkeys([*reference, *values])
    return {name: values.get(name) for name in names}, {name: reference.get(name) for name in names}


def _without_equal_infinities(
    values: dict[str, Tensor | None], reference: dict[str, Tensor | None]
) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
    """Replace equal infinities, and NaN in both, by 0: a mask of -inf differs from itself by NaN."""
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


class _NoStep(Edition):
    """Edition that runs nothing: its outcome has the random state of a step without draws."""

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        return {}
