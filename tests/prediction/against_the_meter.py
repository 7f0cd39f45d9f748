"""A prediction held against the meter of live tensors."""

from __future__ import annotations

from typing import Any

import torch

from mtl_accum import Edition, Split, predict
from mtl_accum.editions import Tasks, Trunk
from mtl_accum.memory import PeakMemory, TrainingStep


def predicted_and_measured(
    trunk: Trunk, tasks: Tasks, batch: Any, edition: Edition | None = None
) -> tuple[PeakMemory, PeakMemory]:
    """The second step of a network with AdamW, on the CPU."""
    parameters = [p for part in (trunk, *tasks.values()) for p in part.parameters()]  # type: ignore[attr-defined]
    optimizer, edition = torch.optim.AdamW(parameters), edition or Split()
    step = TrainingStep(trunk, tasks, batch, optimizer, edition)
    step()
    with step.tensor_meter() as meter:
        step()
    return predict(trunk, tasks, batch, optimizer=optimizer, edition=edition, device="cpu"), meter.result()


def assert_equal_to_the_byte(predicted: PeakMemory, measured: PeakMemory) -> None:
    """At every point of the step."""
    assert predicted.peak_bytes == measured.peak_bytes
    assert predicted.categories == measured.categories
    assert (predicted.base_bytes, predicted.end_bytes) == (measured.base_bytes, measured.end_bytes)
    assert (predicted.peak_phase, predicted.peak_operator) == (measured.peak_phase, measured.peak_operator)
    assert predicted.timeline == measured.timeline
