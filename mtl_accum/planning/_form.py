"""How a training loop takes a schedule: as a call that leaves gradients, or as a loss that it sends back itself."""

from __future__ import annotations

from typing import Any, Literal, get_args

from mtl_accum._validate import one_of
from mtl_accum.editions import AsLoss, Edition

__all__ = ["Form", "call_of", "in_form", "require_form", "without_form"]

Form = Literal["forward_backward", "loss"]


def require_form(form: str) -> None:
    """Raise ValueError unless there is such a form."""
    one_of(*get_args(Form))("form", form)


def in_form(edition: Edition, form: Form) -> Edition:
    """Return what runs a schedule in a form."""
    return AsLoss(edition) if form == "loss" else edition  # type: ignore[arg-type]  # it raises for one without


def without_form(edition: Any) -> Edition:
    """Return the schedule itself: the one whose `.loss` is called, where it runs in the form of a loss."""
    return edition.edition if isinstance(edition, AsLoss) else edition


def call_of(schedule: str) -> str:
    """Write down how a loop calls a schedule that it takes as a loss."""
    return f"total, losses = {schedule}.loss(trunk, tasks, batch), then total.backward()"
