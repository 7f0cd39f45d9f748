"""Forms of a schedule in a training loop: a call that leaves gradients, or a loss for the loop's own backward."""

from __future__ import annotations

from typing import Any, Literal, get_args

from mtl_accum._validate import one_of
from mtl_accum.editions import AsLoss, Edition

__all__ = ["Form", "call_of", "in_form", "require_form", "without_form"]

Form = Literal["forward_backward", "loss"]


def require_form(form: str) -> None:
    """Raise ValueError unless a string names a form."""
    one_of(*get_args(Form))("form", form)


def in_form(edition: Edition, form: Form) -> Edition:
    """Return the edition that runs a schedule in a form."""
    return AsLoss(edition) if form == "loss" else edition  # type: ignore[arg-type]  # it raises for an edition without a loss


def without_form(edition: Any) -> Edition:
    """Return the schedule itself, without the `AsLoss` that runs it in the form of a loss."""
    return edition.edition if isinstance(edition, AsLoss) else edition


def call_of(schedule: str) -> str:
    """Return the code that calls a schedule in the form of a loss."""
    return f"total, losses = {schedule}.loss(trunk, tasks, batch), then total.backward()"
