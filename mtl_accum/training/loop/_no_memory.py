"""Out-of-memory errors of training, with a breakdown of the memory that a step needs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from typing import Any

import torch

from mtl_accum.editions import EditionLike
from mtl_accum.memory import PeakMemory
from mtl_accum.models import MultiTaskModel
from mtl_accum.planning import format_edition
from mtl_accum.prediction import predict
from mtl_accum.report import mib

__all__ = ["NoMemoryLeftError", "explain_out_of_memory"]


class NoMemoryLeftError(MemoryError):
    """Training ran out of memory with every schedule; the message has the memory that the last one needs.

    Attributes:
        undone: Whether model and optimizer are as they were after the last complete step.
    """

    def __init__(self, message: str, *, undone: bool) -> None:
        super().__init__(message)
        self.undone = undone


def explain_out_of_memory(
    model: MultiTaskModel,
    optimizer: torch.optim.Optimizer,
    edition: EditionLike,
    batch: Any,
    *,
    device: torch.device,
    reason: str,
) -> str:
    """Return the message of a step that ran out of memory: the predicted breakdown, the free memory, and the fix.

    Args:
        model: Network of the step.
        optimizer: Optimizer of its parameters.
        edition: Schedule that ran out of memory.
        batch: First batch of the step.
        device: Device of the network.
        reason: First line of the error.
    """
    needed = ""
    with suppress(Exception):  # no breakdown without a prediction; a half-made optimizer state raises anything
        peak = predict(*(model.trunk, model.tasks, batch), optimizer=optimizer, edition=edition, device=device.type)
        needed = _breakdown(peak)
    free = f"; free on {device} now: {mib(torch.cuda.mem_get_info(device)[0])}" if device.type == "cuda" else ""
    return (
        f"memory ran out in {format_edition(edition)} ({reason}){needed}{free}; a smaller batch or smaller samples, or "
        "job=plan for a schedule that fits"
    )


def _breakdown(peak: PeakMemory) -> str:
    if peak.categories is None:
        return ""
    sizes = {field.name.replace("_", " "): getattr(peak.categories, field.name) for field in fields(peak.categories)}
    parts = ", ".join(f"{name} {mib(size)}" for name, size in sizes.items() if size)
    return f"; it needs {mib(peak.categories.total)} ({parts}; the most in {peak.peak_phase})"
