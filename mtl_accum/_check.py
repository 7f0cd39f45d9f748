"""Proof for the user's own model: every edition against `SummedLoss`, by numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mtl_accum._difference import gradient_difference, largest_difference
from mtl_accum._no_dropout import NoDropout
from mtl_accum._oracle import in_pieces, oracle
from mtl_accum._trial import Network, Outcome
from mtl_accum.editions import (
    Accumulated,
    Cached,
    Edition,
    PerTask,
    Split,
    SummedLoss,
    Tasks,
    Trunk,
    require_editions,
    require_parts,
)
from mtl_accum.editions._modules import modules_of, share_modules
from mtl_accum.editions._pieces import samples_of
from mtl_accum.report import markdown_table

__all__ = ["Agreement", "Check", "CheckedEdition", "check"]

# The largest difference that rounding explains; in 16 bit a figure is shown and nothing concluded.
_BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5}


@dataclass(frozen=True)
class Agreement:
    """An edition against its oracle, in one precision; relative differences, see `gradient_difference`.

    Attributes:
        dtype: the precision.
        losses: largest difference of the tasks' losses.
        gradients: largest difference of the parameters' gradients.
        buffers: largest difference of the buffers afterwards.
        random: whether the random stream ended in the same place.
        parameter: the one whose gradient differs most.
        tasks: those whose losses differ by more than rounding.
    """

    dtype: torch.dtype
    losses: float
    gradients: float
    buffers: float
    random: bool
    parameter: str
    tasks: tuple[str, ...]

    def exact(self) -> bool:
        """Whether nothing but rounding is between the two."""
        worst = max(self.losses, self.gradients, self.buffers)
        return self.random and worst <= _BOUNDS.get(self.dtype, math.inf)


@dataclass(frozen=True)
class CheckedEdition:
    """What was found out about one edition.

    Attributes:
        own: in the model's precision; None if the edition refused.
        double: in float64; None if that could not be had.
        without: why `double` could not be had.
        refusal: the edition's own words, if it refused this model.
        missing: parameters that get a gradient from `SummedLoss` and none from this edition.
        reason: the likely reason for a difference.
    """

    own: Agreement | None = None
    double: Agreement | None = None
    without: str = ""
    refusal: str = ""
    missing: tuple[str, ...] = ()
    reason: str = ""

    def passed(self) -> bool:
        """Whether the edition is exact here, or says itself that it cannot be."""
        decisive = self.double or self.own  # in float64 a wrong gradient cannot hide behind rounding
        return bool(self.refusal) or (decisive is not None and decisive.exact() and not self.missing)


@dataclass(frozen=True)
class Check:
    """The result for every edition.

    Attributes:
        editions: by name.
        idle: trainable parameters that get no gradient from `SummedLoss` either.
    """

    editions: Mapping[str, CheckedEdition]
    idle: tuple[str, ...]

    def passed(self) -> bool:
        """Whether every edition passed."""
        return all(found.passed() for found in self.editions.values())

    def __str__(self) -> str:
        columns = ["edition", "dtype", "losses", "gradients", "buffers", "random stream", "verdict"]
        rows, notes = [columns], []
        for name, found in self.editions.items():
            verdict = "refused" if found.refusal else "exact" if found.passed() else "DIFFERS"
            rows.append([name, *_cells(found.own, "own"), verdict])
            if not found.refusal:
                rows.append([name, *_cells(found.double, "float64"), verdict])
            notes += [f"{name}: {why}" for why in (found.refusal, found.without) if why]
            if not found.passed():
                notes.append(f"{name}: {found.reason}")
        if self.idle:
            notes.append(f"no gradient from SummedLoss either: {', '.join(self.idle)}")
        return "\n".join([*markdown_table(rows), "", *(f"  {note}" for note in notes)])


def check(
    trunk: Trunk,
    tasks: Tasks,
    batch: Any,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    editions: Mapping[str, Edition] | None = None,
) -> Check:
    """Hold editions against `SummedLoss` on a network and a batch of the user's, and print a table.

    An edition in pieces is held against the same pieces with the model's random numbers, and against the whole
    batch with dropout turned off: the first sees a wrong replay, the second a loss that couples samples, batch
    statistics, or a count that is not the mean's denominator. Takes the memory of `SummedLoss`, twice over for
    the float64 part. Leaves no trace in the network.

    Args:
        trunk: maps the batch to the representation.
        tasks: by name, maps the representation and the batch to a 0-dim loss.
        batch: any; cut for editions in pieces.
        optimizer: whose parameters are the trainable ones; by default all that require a gradient.
        editions: by the name to show; by default PerTask, Split, and Cached and Accumulated in two pieces.

    Returns:
        The figures, the likely reasons, and `passed()`.
    """
    require_parts(trunk, tasks)
    if editions is not None:
        require_editions(editions)
    chosen = editions or _default_editions(batch)
    network = Network(trunk, tasks, batch)
    reference = network.run(SummedLoss())
    double, without = _in_double(trunk, tasks, batch)
    found = {name: _check_one(edition, network, double, without) for name, edition in chosen.items()}
    trained = None if optimizer is None else {id(p) for group in optimizer.param_groups for p in group["params"]}
    idle = [
        name
        for name, parameter in network.parameters.items()
        if reference.gradients[name] is None
        and (parameter.requires_grad if trained is None else id(parameter) in trained)
    ]
    result = Check(found, tuple(idle))
    print(result)
    return result


def _check_one(edition: Edition, network: Network, double: Network | None, without: str) -> CheckedEdition:
    try:
        own, missing = _agreement(edition, network)
    except (ValueError, TypeError) as refusal:
        return CheckedEdition(refusal=str(refusal))
    exact: Agreement | None = None
    if double is not None:
        try:
            exact, _ = _agreement(edition, double)
        except (RuntimeError, TypeError, ValueError) as error:
            without = f"not in float64: {str(error).splitlines()[0]}"
    result = CheckedEdition(own, exact, "" if exact else without, missing=missing)
    if result.passed():
        return result
    reason = _reason(edition, network if double is None or exact is None else double, exact or own, missing)
    return CheckedEdition(own, exact, result.without, missing=missing, reason=reason)


def _agreement(edition: Edition, network: Network) -> tuple[Agreement, tuple[str, ...]]:
    """The worse of the two comparisons, and the parameters without a gradient."""
    cut, draws = in_pieces(edition), not _same(network.run(SummedLoss()).random, network.run(_Nothing()).random)
    expected = network.run(oracle(edition) if draws else SummedLoss())
    found = network.run(edition)
    agreement = _compare(found, expected)
    if cut and draws:
        with NoDropout():
            whole = network.run(SummedLoss())
            if _same(whole.random, network.run(_Nothing()).random):  # else something else draws: nothing to learn
                other = _compare(network.run(edition), whole)
                agreement = max(agreement, other, key=lambda a: max(a.losses, a.gradients, a.buffers, not a.random))
    pairs = found.gradients.items()
    missing = tuple(name for name, g in pairs if g is None and expected.gradients[name] is not None)
    return agreement, missing


def _compare(found: Outcome, expected: Outcome) -> Agreement:
    gradients, parameter = largest_difference(found.gradients, expected.gradients)
    dtype = next((g.dtype for g in expected.gradients.values() if g is not None), torch.float32)
    bound = _BOUNDS.get(dtype, math.inf)
    differing = (
        name
        for name, loss in found.losses.items()
        if gradient_difference({"": loss}, {"": expected.losses[name]}) > bound
    )
    return Agreement(
        dtype,
        losses=gradient_difference(found.losses, expected.losses),
        gradients=gradients,
        buffers=gradient_difference(found.buffers, expected.buffers),
        random=_same(found.random, expected.random),
        parameter=parameter,
        tasks=tuple(differing),
    )


def _reason(edition: Edition, network: Network, agreement: Agreement, missing: tuple[str, ...]) -> str:
    """What most likely lies behind a difference."""
    again = _compare(network.run(SummedLoss()), network.run(SummedLoss()))
    where = f"the gradient of {agreement.parameter} differs most"
    if not again.exact():
        return (
            f"{where}; SummedLoss differs from itself: randomness outside torch, or kernels that are not deterministic"
        )
    if missing:
        return f"no gradient for {', '.join(missing)}, which SummedLoss gives one"
    if in_pieces(edition) and agreement.tasks:
        names = ", ".join(map(repr, agreement.tasks))
        return (
            f"{where}; the loss of {names} over pieces is not that of the whole batch: it couples samples "
            "(declare couples_samples=True), uses batch statistics, or its count is not its mean's denominator"
        )
    if not agreement.random:
        return f"{where}; the random stream ends elsewhere: a generator that is not torch's default one"
    return f"{where}; state outside parameters and buffers changes from one pass to the next"


def _in_double(trunk: Trunk, tasks: Tasks, batch: Any) -> tuple[Network | None, str]:
    """A float64 copy of the network, or why there is none."""
    try:
        copied, copied_tasks = copy.deepcopy((trunk, dict(tasks)))
    except Exception as error:
        return None, f"not in float64: cannot be copied ({error})"
    functions: list[Callable[..., Any]] = [copied, *copied_tasks.values()]
    if share_modules([trunk, *tasks.values()], functions):
        return None, "not in float64: a closure's modules cannot be copied; pass modules, such as Task"
    for module in modules_of(*functions):
        module.double()
    wide = tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, batch)
    return Network(copied, copied_tasks, wide), ""


def _default_editions(batch: Any) -> dict[str, Edition]:
    try:
        half = max(1, -(-samples_of(batch, "batch") // 2))
    except (TypeError, ValueError):
        return {"per_task": PerTask(), "split": Split()}
    return {
        "per_task": PerTask(),
        "split": Split(),
        "cached": Cached(chunk_size=half),
        "accumulated": Accumulated(Split(), micro_batches=2),
    }


class _Nothing:
    """Where the random stream is when nobody draws."""

    def forward_backward(self, trunk: Trunk, tasks: Tasks, batch: Any) -> dict[str, Tensor]:
        return {}


def _same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _cells(agreement: Agreement | None, dtype: str) -> list[str]:
    if agreement is None:
        return [dtype, *["–"] * 4]
    figures = [f"{value:.1e}" for value in (agreement.losses, agreement.gradients, agreement.buffers)]
    return [str(agreement.dtype).removeprefix("torch."), *figures, "same" if agreement.random else "elsewhere"]
