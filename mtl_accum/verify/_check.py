"""Check of editions on the user's own network: losses, gradients, buffers and random numbers against `SummedLoss`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from mtl_accum._torch_pytree import tree_leaves, tree_map, tree_map_only
from mtl_accum.editions import (
    Accumulated,
    Cached,
    Edition,
    EditionLike,
    PerTask,
    Split,
    Tasks,
    Trunk,
    always_comparing,
    modules_of,
    require_editions,
    require_parts,
    samples_of,
)
from mtl_accum.editions._engine import OnlyForwardBackward, share_modules
from mtl_accum.verify._absent import absent_tasks
from mtl_accum.verify._causes import cause_of
from mtl_accum.verify._judge import Agreement, Judge
from mtl_accum.verify._trial import Sandbox, leaves_reached
from mtl_accum.verify._verdict import Check, CheckedEdition

__all__ = ["Agreement", "Check", "CheckedEdition", "check", "examine"]

_MOST_NAMES = 4  # of parameters in a sentence
_LONGEST_ERROR = 300  # characters in the table

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]


def check(
    trunk: Trunk,
    tasks: Tasks,
    batch: Any,
    *,
    optimizer: Optimizers | None = None,
    editions: Mapping[str, EditionLike] | None = None,
) -> Check:
    """Compare editions with `SummedLoss` on a network and a batch, and print a table.

    Compared are the gradients of all leaves that the losses reach (log-variances in a closure, inputs that require a
    gradient), the losses, the buffers and the random numbers. Every run begins from the same state, on a copy of the
    batch. An edition in pieces is compared twice. The comparison with `SummedLoss` over the same pieces, with the
    model's random numbers, shows a wrong replay. The one with the whole batch, with dropout turned off, shows a loss
    that couples samples, batch statistics, or a count that is not the mean's denominator. Where a difference exceeds
    the bound, the network's own rounding is measured, and the difference compared with it.

    The check needs the memory of `SummedLoss`, twice that for the float64 part, and leaves the network unchanged.

    Args:
        trunk: Function from the batch to the representation.
        tasks: Functions from the representation and the batch to a 0-dim loss, by name.
        batch: Any batch; it is cut for editions in pieces.
        optimizer: Optimizer, or several, with the trainable parameters; by default all that require a gradient.
        editions: Editions by the name to show; by default PerTask, Split, and Cached and Accumulated in unequal pieces.

    Returns:
        The figures, the causes that experiments showed, and `passed()`. An edition that raises is one of the rows.

    Raises:
        TypeError: The trunk, a task or an edition has a wrong type.
        Exception: `SummedLoss` cannot run on this network and batch, and raised it.
    """
    result = examine(trunk, tasks, batch, optimizer=optimizer, editions=editions)
    print(result)
    return result


def examine(
    trunk: Trunk,
    tasks: Tasks,
    batch: Any,
    *,
    optimizer: Optimizers | None = None,
    editions: Mapping[str, EditionLike] | None = None,
) -> Check:
    """Compare editions with `SummedLoss` as `check` does, without printing; arguments and errors as of `check`."""
    require_parts(trunk, tasks)
    chosen = _default_editions(batch) if not editions else require_editions(editions)
    trained = [p for one in _optimizers(optimizer) for group in one.param_groups for p in group["params"]]
    network = Sandbox(trunk, tasks, batch, also=[*trained, *leaves_reached(trunk, tasks, batch)])
    own = Judge(network)
    gradients = own.reference.gradients  # first: if SummedLoss cannot run, that is the caller's error and no row
    double, without = _in_double(trunk, tasks, batch)
    rows = {name: _check_one(edition, own, double, without) for name, edition in chosen.items()}
    ids = {id(parameter) for parameter in trained}
    idle = [
        name
        for name, parameter in network.parameters.items()
        if gradients[name] is None and (id(parameter) in ids if optimizer is not None else parameter.requires_grad)
    ]
    return Check(rows, tuple(idle), absent_tasks(tasks, batch))


def _check_one(edition: Edition, own: Judge, double: Judge | None, without: str) -> CheckedEdition:
    try:
        with always_comparing():
            agreement = own.agreement(edition)
    except Exception as error:
        if _is_refusal(error, edition):
            return CheckedEdition(refusal=str(error))
        return CheckedEdition(failure=_one_line(error))
    exact: Agreement | None = None
    if double is not None:
        try:
            with always_comparing():
                exact = double.agreement(edition)
        except Exception as error:
            without = f"not in float64: {_one_line(error)}"
    judge, decisive = (own, agreement) if double is None or exact is None else (double, exact)
    return CheckedEdition(
        agreement,
        exact,
        "" if exact else without,
        missing=decisive.missing,
        reason="" if decisive.exact() else cause_of(edition, judge, decisive),
        undecided=_undecided(edition, judge, decisive),
    )


def _undecided(edition: Edition, judge: Judge, agreement: Agreement) -> str:
    """Return why a comparison without a difference proves nothing; "" if it proves something."""
    if not agreement.exact():
        return ""
    if not agreement.decided():
        names = ", ".join(agreement.hidden[:_MOST_NAMES]) or "every gradient"
        names += f" and {len(agreement.hidden) - _MOST_NAMES} more" if len(agreement.hidden) > _MOST_NAMES else ""
        return f"not decided: the rounding of {names} in {agreement.dtype} is too large to see a wrong gradient"
    if not judge.can_compare_whole(edition):
        return (
            "not decided: the network draws random numbers other than dropout's, so pieces differ from the whole batch"
        )
    return ""


def _is_refusal(error: Exception, edition: Edition) -> bool:
    """Return whether an error is an edition's own refusal, and not an error of the network."""
    frame = list(_frames(error))[-1]
    if str(frame.f_globals.get("__name__", "")).startswith("mtl_accum."):
        return isinstance(error, ValueError | TypeError | RuntimeError)
    user = edition.edition if isinstance(edition, OnlyForwardBackward) else edition
    return isinstance(error, ValueError | TypeError) and frame.f_locals.get("self") is user


def _frames(error: Exception) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _one_line(error: Exception) -> str:
    message = " ".join(str(error).split())
    shown = message if len(message) <= _LONGEST_ERROR else f"{message[:_LONGEST_ERROR]}..."
    return f"{type(error).__name__}: {shown}".removesuffix(": ")


def _optimizers(optimizer: Optimizers | None) -> Sequence[torch.optim.Optimizer]:
    if optimizer is None:
        return []
    return [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else optimizer


def _in_double(trunk: Trunk, tasks: Tasks, batch: Any) -> tuple[Judge | None, str]:
    """Return the judge of a float64 copy of the network; or None, and the reason."""
    try:
        copied, copied_tasks = copy.deepcopy((trunk, dict(tasks)))
    except Exception as error:
        return None, f"not in float64: cannot be copied ({error})"
    functions: list[Callable[..., Any]] = [copied, *copied_tasks.values()]
    if share_modules([trunk, *tasks.values()], functions):
        return None, "not in float64: a closure's modules cannot be copied; pass modules, such as Task"
    for module in modules_of(*functions):
        module.double()
        _widen_attributes(module)
    wide = tree_map_only(Tensor, _double, batch)
    try:
        judge = Judge(Sandbox(copied, copied_tasks, wide, also=leaves_reached(copied, copied_tasks, wide)))
        _ = judge.reference
    except Exception as error:
        return None, f"not in float64: {_one_line(error)}"
    return judge, ""


def _widen_attributes(module: torch.nn.Module) -> None:
    """Convert the tensors in a module's plain attributes, such as a hidden state, to float64."""
    for name, value in vars(module).items():
        if name not in ("_parameters", "_buffers", "_modules") and any(map(_is_narrow, tree_leaves(value))):
            vars(module)[name] = tree_map(lambda leaf: _double(leaf) if _is_narrow(leaf) else leaf, value)


def _is_narrow(leaf: Any) -> bool:
    narrow = isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dtype != torch.float64
    return narrow and not isinstance(leaf, torch.nn.Parameter)


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().double().requires_grad_(tensor.requires_grad) if tensor.is_floating_point() else tensor


def _default_editions(batch: Any) -> dict[str, Edition]:
    try:
        samples = samples_of(batch, "batch")
    except (TypeError, ValueError):
        return {"per_task": PerTask(), "split": Split()}
    uneven = (pieces for pieces in range(2, samples) if samples % -(-samples // pieces))
    return {
        "per_task": PerTask(),
        "split": Split(),
        "cached": Cached(chunk_size=max(1, min(samples // 2 + 1, samples - 1))),
        "accumulated": Accumulated(Split(), micro_batches=next(uneven, 2)),
    }
